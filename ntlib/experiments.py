"""Grids of training runs: on the cores of this machine or on a cluster, resumable, the same rows
whatever the number of workers."""

import json
import platform
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path

import joblib
import pandas as pd
import torch
from tqdm import tqdm

from ntlib import dependencies
from ntlib.cluster import Cluster
from ntlib.measuring.provenance import environment
from ntlib.models.protocol import Config, Model
from ntlib.results import write_atomically
from ntlib.training import Task, TrainConfig, train


@dataclass(frozen=True)
class Run:
    """One model trained once."""

    architecture: str  # name in figures and tables
    model: Config
    task: Task  # a frozen dataclass, so that the run can be named by its contents
    train: TrainConfig

    def key(self) -> str:
        """A name that changes with anything that changes the result: values or code."""
        return dependencies.digest(f"{self!r} {self.sources()}")

    def sources(self) -> dict[str, str]:
        """{file of ntlib: digest} of the model, the task and the training loop, with all that they
        import."""
        return _sources(frozenset(_modules((self.model, self.task, self.train))))

    def build(self) -> Model:
        """The model with this run's initial weights."""
        return self.model.build(torch.Generator().manual_seed(self.train.seed))


def grid(runs: Iterable[Run], *, lrs: Sequence[float] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """Every run at every learning rate and seed; an empty sequence keeps the run's own."""
    return [
        replace(run, train=replace(run.train, lr=lr, seed=seed))
        for run in runs
        for lr in (lrs or [run.train.lr])
        for seed in (seeds or [run.train.seed])
    ]


def run_grid(
    runs: Sequence[Run],
    *,
    workers: int | Cluster = -1,
    checkpoints: Path | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Train every run; tidy rows: architecture, lr, seed and the columns of ntlib.training.train.

    `workers` processes, -1 for one per core, or those of a cluster, each computing with one thread.
    With `checkpoints` (a folder), runs that are done are not repeated and interrupted ones
    continue; rows are the same as those of an undisturbed grid. Workers of a cluster that do not
    see the folder begin an interrupted run anew; what they finish is kept there all the same.
    """
    if checkpoints is not None:
        checkpoints.mkdir(parents=True, exist_ok=True)
    jobs = [(run, _checkpoint(run, checkpoints)) for run in runs]
    frames = {n: frame for n, job in enumerate(jobs) if (frame := _finished(*job)) is not None}
    open_ones = [n for n in range(len(jobs)) if n not in frames]
    submit = _on_cluster if isinstance(workers, Cluster) else _here
    done = submit(workers, [jobs[n] for n in open_ones])
    bar = {"total": len(jobs), "initial": len(frames), "desc": "runs", "disable": not progress}
    for n, frame in tqdm(done, **bar):
        frames[open_ones[n]] = frame
    return pd.concat([frames[n] for n in range(len(jobs))], ignore_index=True)


def execute(run: Run, checkpoint: Path | None = None) -> pd.DataFrame:
    """One run on one thread (sums in another order would round differently).

    Beside the checkpoint, a JSON file says where and when it was finished, and in how many seconds
    since the run was last taken up.
    """
    start, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = train(run.build(), run.task, run.train, checkpoint=checkpoint)
        if checkpoint is not None:
            made = {"host": platform.node(), "seconds": time.perf_counter() - start}
            write_atomically(_made(checkpoint), json.dumps(made | environment()))
    finally:
        torch.set_num_threads(threads)
    return _frame(run, rows)


def trained(run: Run, checkpoints: Path) -> Model:
    """The model of a run that `run_grid` has finished with these `checkpoints`."""
    model = run.build()
    kept = torch.load(_checkpoint(run, checkpoints), weights_only=True)
    model.load_state_dict(kept["model"])
    return model.eval()


def machines(runs: Iterable[Run], checkpoints: Path) -> list[dict[str, object]]:
    """Where finished runs were computed: host, `environment()` without its date, the number of
    `runs` and their `seconds`, one entry per kind of machine."""
    found: dict[str, dict[str, object]] = {}
    for run in runs:
        made = json.loads(_made(_checkpoint(run, checkpoints)).read_text())
        seconds, _ = made.pop("seconds"), made.pop("date")
        entry = found.setdefault(json.dumps(made), made | {"runs": 0, "seconds": 0.0})
        entry["runs"] += 1
        entry["seconds"] += seconds
    return list(found.values())


def best_rates(frame: pd.DataFrame, by: str = "loss") -> dict[str, float]:
    """The learning rate of the lowest mean final `by` over seeds, per architecture."""
    last = frame[frame["step"] == frame["step"].max()]
    means = last.groupby(["architecture", "lr"])[by].mean()
    # plain floats: a run is named by its contents, and NumPy's numbers are written differently
    return {name: float(rate) for name, rate in means.unstack("lr").idxmin(axis=1).items()}


Job = tuple[Run, Path | None]
Done = Iterator[tuple[int, pd.DataFrame]]


def _here(workers: int, jobs: list[Job]) -> Done:
    parallel = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")
    with warnings.catch_warnings():
        # joblib ends workers whose memory has grown and starts others in their place; it says so on
        # stderr, which notebooks print, at moments that differ from run to run. No job is lost.
        warnings.filterwarnings(
            "ignore", "A worker stopped while some jobs were given", UserWarning
        )
        yield from parallel(joblib.delayed(_numbered)(n, *job) for n, job in enumerate(jobs))


def _numbered(number: int, run: Run, checkpoint: Path | None) -> tuple[int, pd.DataFrame]:
    return number, execute(run, checkpoint)


def _on_cluster(cluster: Cluster, jobs: list[Job]) -> Done:
    for number, (frame, files) in cluster.map(_shipped, jobs):
        for path, content in files.items():
            write_atomically(path, content)
        yield number, frame


def _shipped(run: Run, checkpoint: Path | None) -> tuple[pd.DataFrame, dict[Path, bytes]]:
    """On a worker: the rows, and the files that belong beside the caller's other checkpoints."""
    if checkpoint is None:
        return execute(run), {}
    with tempfile.TemporaryDirectory() as own:
        shared = checkpoint.parent.is_dir()
        place = checkpoint if shared else Path(own) / checkpoint.name
        frame = execute(run, place)
        paths = {checkpoint: place, _made(checkpoint): _made(place)}  # what says "done" comes last
        return frame, {path: source.read_bytes() for path, source in paths.items()}


def _finished(run: Run, checkpoint: Path | None) -> pd.DataFrame | None:
    if checkpoint is None or not _made(checkpoint).exists():
        return None
    rows = torch.load(checkpoint, weights_only=True)["rows"]
    return _frame(run, rows)


def _checkpoint(run: Run, checkpoints: Path | None) -> Path | None:
    return None if checkpoints is None else checkpoints / f"{run.key()}.pt"


def _made(checkpoint: Path) -> Path:
    """Exists once the run is finished."""
    return checkpoint.with_suffix(".json")


def _frame(run: Run, rows: list[dict[str, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    frame.insert(0, "architecture", run.architecture)
    frame.insert(1, "lr", run.train.lr)
    frame.insert(2, "seed", run.train.seed)
    return frame


def _modules(part: object) -> Iterator[str]:
    """Modules of a configuration and of those inside it."""
    if isinstance(part, tuple):
        for inner in part:
            yield from _modules(inner)
    elif is_dataclass(part):
        yield type(part).__module__
        yield from _modules(tuple(getattr(part, field.name) for field in fields(part)))


@cache
def _sources(modules: frozenset[str]) -> dict[str, str]:
    return dependencies.of_modules(modules)
