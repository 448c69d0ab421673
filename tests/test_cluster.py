"""Grids on a real Dask scheduler with workers in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import pandas as pd
import pytest
from click.testing import CliRunner

from ntlib import dependencies, experiments
from ntlib.__main__ import main
from ntlib.cluster import Cluster
from ntlib.mixers.retention import RetentionConfig
from ntlib.models.language_model import ModelConfig
from ntlib.tasks import InductionHeads
from ntlib.training import TrainConfig

TASK = InductionHeads(vocab_size=8, length=16)
MODEL = ModelConfig(TASK.vocab_size, 16, 1, RetentionConfig(2), ffn_dim=24)


def runs(steps, seeds):
    config = TrainConfig(steps, batch_size=8, lr=1e-2, eval_every=5, held_out=16)
    return experiments.grid([experiments.Run("RetNet", MODEL, TASK, config)], seeds=range(seeds))


@pytest.fixture
def start():
    """start("worker", *options) begins a process of Dask that ends with the test."""
    started = []

    def begin(kind, *options, code=dependencies.ROOT):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, options)]
        environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env=environment, cwd=code))
        return started[-1]

    yield begin
    for process in reversed(started):
        process.kill()
        process.wait()


@pytest.fixture
def address(start, tmp_path):
    """Of a scheduler on the loopback interface."""
    file = tmp_path / "scheduler.json"
    place = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", file)
    start("scheduler", *place, "--no-dashboard")
    wait_for(file.exists)
    return json.loads(file.read_text())["address"]


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_worker_loses_and_doubles_nothing(start, address, tmp_path):
    grid, folder = runs(steps=250, seeds=3), tmp_path / "checkpoints"
    workers = [start("worker", address, "--nthreads", "1", "--no-nanny") for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        distributed = pool.submit(
            experiments.run_grid, grid, workers=Cluster(address), checkpoints=folder
        )
        wait_for(lambda: len(begun(folder)) == 2 or distributed.done())
        assert not distributed.done()
        workers[0].kill()  # both were in the middle of a run
        rows = distributed.result(timeout=120)
    assert workers[1].poll() is None
    assert len(rows) == 3 * 50
    assert not rows.duplicated(["seed", "step"]).any()
    pd.testing.assert_frame_equal(rows, experiments.run_grid(grid, workers=1))
    (machine,) = experiments.machines(grid, folder)
    assert machine["runs"] == 3
    assert machine["threads"] == 1
    workers[1].kill()  # nothing is left to compute
    again = experiments.run_grid(grid, workers=Cluster(address), checkpoints=folder)
    pd.testing.assert_frame_equal(again, rows)


def begun(folder: Path) -> set[str]:
    """Names of runs with a checkpoint that are not finished."""
    finished = {path.stem for path in folder.glob("*.json")}
    return {path.stem for path in folder.glob("*.pt")} - finished


@pytest.mark.slow
def test_a_worker_that_would_give_other_rows_is_refused(start, address, tmp_path):
    start("worker", address, "--nthreads", "2", "--no-nanny")
    with pytest.raises(ValueError, match="has 2 threads; use --nthreads 1"):
        experiments.run_grid(runs(steps=5, seeds=1), workers=Cluster(address))


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused(start, address, tmp_path):
    other = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(dependencies.ROOT / "ntlib", other / "ntlib", ignore=ignored)
    with (other / "ntlib" / "training.py").open("a") as file:
        file.write("# changed\n")
    start("worker", address, "--nthreads", "1", "--no-nanny", code=other)
    with pytest.raises(ValueError, match="computes with another ntlib than the caller"):
        experiments.run_grid(runs(steps=5, seeds=1), workers=Cluster(address))


def test_no_scheduler():
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}),
        pytest.raises(OSError, match=r"127\.0\.0\.1:9"),
    ):
        list(Cluster("tcp://127.0.0.1:9").map(abs, [(-1,)]))


def test_the_command_names_a_scheduler_that_does_not_answer(tmp_path):
    with dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}):
        place = ["--root", str(tmp_path), "record", "tuning-gaps", "--cluster"]
        shown = CliRunner().invoke(main, [*place, "tcp://127.0.0.1:9"])
    assert shown.exit_code == 1
    assert "127.0.0.1:9" in shown.output


def test_what_workers_elsewhere_finish_is_kept_here(tmp_path):
    """A machine without the folder of checkpoints sends the last one back."""

    class Elsewhere(Cluster):
        def map(self, function, calls):
            for number, call in enumerate(calls):
                hidden = folder.rename(tmp_path / "hidden")
                result = function(*call)
                hidden.rename(folder)
                yield number, result

    grid, folder = runs(steps=10, seeds=2), tmp_path / "checkpoints"
    rows = experiments.run_grid(grid, workers=Elsewhere("none"), checkpoints=folder)
    assert len(list(folder.iterdir())) == 4
    pd.testing.assert_frame_equal(rows, experiments.run_grid(grid, workers=1))
    pd.testing.assert_frame_equal(
        rows, experiments.run_grid(grid, workers=None, checkpoints=folder)
    )
    assert experiments.trained(grid[1], folder).training is False
