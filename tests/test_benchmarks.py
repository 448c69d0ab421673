"""The benchmark runs at toy size, its records are complete, and its arithmetic is right."""

import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks import contenders, scaling
from benchmarks.limits import EXP_SLOTS, Limits, Work
from benchmarks.mixer_cases import mixers
from benchmarks.operator_cases import OPERATORS
from benchmarks.operators import main
from benchmarks.report import ATTENTION, OURS
from ntlib import results

LIMITS = Limits(matmul_flops_per_s=2e9, bandwidth_bytes_per_s=1e8, exponentials_per_s=1e8)


def run(*arguments):
    outcome = CliRunner().invoke(main, [*arguments, "--quick"], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


@pytest.mark.slow
@pytest.mark.parametrize("part", ["operators", "mixers"])
def test_every_case_runs_and_is_recorded(part, tmp_path, monkeypatch):
    monkeypatch.setattr(contenders, "CONTEXT", 8)
    printed = run("--part", part, "--no-peers", "--shape", "1x32", "--directory", str(tmp_path))
    frame, provenance = results.load("operators-speed", tmp_path)
    table = OPERATORS if part == "operators" else mixers()
    assert set(frame.name) == set(table)
    phases = {"forward", "training"} | ({"decoding"} if part == "mixers" else set())
    for name, rows in frame[frame.contender == OURS].groupby("name"):
        assert set(rows.phase) == phases, name
    assert (frame[["min_s", "median_s", "bound_s"]] > 0).all(axis=None)
    assert "allocator" in provenance["environment"]
    assert provenance["profile"] == "smoke"
    assert "limits of this machine" in printed
    assert "allocator, for all contenders" in printed


@pytest.mark.slow
@pytest.mark.peers
def test_peers_stand_beside_ours():
    printed = run("--part", "mixers", "--only", "retnet", "--shape", "1x128")
    assert "torchscale, chunks of" in printed
    printed = run("--part", "operators", "--only", "wkv", "--shape", "1x16")
    assert "transformers loop" in printed


def test_scaling_is_recorded(tmp_path):
    printed = run("--part", "scaling", "--only", "retnet", "--directory", str(tmp_path))
    frame, _ = results.load("operators-scaling", tmp_path)
    assert set(frame.contender) == {"RetNet", ATTENTION}
    assert "faster than attention" in printed
    memory = frame[frame.phase == "training"].groupby("contender").peak_bytes.max()
    assert (memory > 2**20).all()


def test_nothing_is_saved_by_a_quick_run(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "DIRECTORY", tmp_path)
    run("--part", "operators", "--no-peers", "--only", "short", "--shape", "1x8")
    assert not list(tmp_path.iterdir())


def test_a_shape_that_is_none_is_refused():
    outcome = CliRunner().invoke(main, ["--shape", "4096"])
    assert outcome.exit_code == 2
    assert "shapes look like 4x1024" in outcome.output


def test_bounds():
    assert LIMITS.seconds(Work(slots=1e9, bytes=5e7)) == 1.0
    assert LIMITS.binding(Work(slots=1e9, bytes=5e7)) == "arithmetic"
    assert LIMITS.seconds(Work(slots=1e8, bytes=5e7)) == 0.5
    assert LIMITS.binding(Work(slots=1e8, bytes=5e7)) == "memory"
    assert LIMITS.seconds(Work(exponentials=1e8)) == pytest.approx(EXP_SLOTS * 0.1)
    assert Work(1, 2, 3) + Work(10, 20, 30) == Work(11, 22, 33)


def times(**contenders):
    lengths = [256, 512, 1024]
    return pd.concat(
        pd.DataFrame({"length": lengths, "contender": name, "median_s": seconds})
        for name, seconds in contenders.items()
    )


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ([2, 2, 2], "from about 362 tokens on"),  # attention takes 1, 4, 16
        ([0.5, 1, 2], "already at 256 tokens"),
        ([2, 8, 32], "nowhere up to 1024 tokens"),
        ([0.5, 8, 8], "from about 724 tokens on"),  # faster, slower, faster
    ],
)
def test_crossovers(ours, expected):
    part = times(attention=[1, 4, 16], ours=ours)
    assert scaling.crossover(part, "ours") == expected


def test_what_grows_too_slow_sits_out():
    assert scaling._expected([]) == 0
    assert scaling._expected([1.0, 4.0]) == 16
    assert scaling._expected([1.0, 1.1]) == 2.2
