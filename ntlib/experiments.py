"""Grids of training runs: on the cores of this machine, resumable, the same rows whatever the
number of workers."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import pandas as pd
import torch
from tqdm import tqdm

from ntlib.models.protocol import Config, Model
from ntlib.training import Task, TrainConfig, train


@dataclass(frozen=True)
class Run:
    """One model trained once."""

    architecture: str  # name in figures and tables
    model: Config
    task: Task  # a frozen dataclass, so that the run can be named by its contents
    train: TrainConfig

    def key(self) -> str:
        """A name that changes with anything that changes the result."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

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
    workers: int = -1,
    checkpoints: Path | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Train every run; tidy rows: architecture, lr, seed and the columns of ntlib.training.train.

    `workers` processes, -1 for one per core, each computing with one thread. With `checkpoints` (a
    folder), runs that are done are not repeated and interrupted ones continue; rows are the same as
    those of an undisturbed grid.
    """
    if checkpoints is not None:
        checkpoints.mkdir(parents=True, exist_ok=True)
    jobs = (joblib.delayed(execute)(run, checkpoints) for run in runs)
    parallel = joblib.Parallel(n_jobs=workers, return_as="generator")
    frames = tqdm(parallel(jobs), total=len(runs), desc="runs", disable=not progress)
    return pd.concat(frames, ignore_index=True)


def execute(run: Run, checkpoints: Path | None = None) -> pd.DataFrame:
    """One run on one thread (sums in another order would round differently)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        checkpoint = None if checkpoints is None else checkpoints / f"{run.key()}.pt"
        rows = train(run.build(), run.task, run.train, checkpoint=checkpoint)
    finally:
        torch.set_num_threads(threads)
    frame = pd.DataFrame(rows)
    frame.insert(0, "architecture", run.architecture)
    frame.insert(1, "lr", run.train.lr)
    frame.insert(2, "seed", run.train.seed)
    return frame


def trained(run: Run, checkpoints: Path) -> Model:
    """The model of a run that `run_grid` has finished with these `checkpoints`."""
    model = run.build()
    model.load_state_dict(torch.load(checkpoints / f"{run.key()}.pt", weights_only=True)["model"])
    return model.eval()


def best_rates(frame: pd.DataFrame, by: str = "loss") -> dict[str, float]:
    """The learning rate of the lowest mean final `by` over seeds, per architecture."""
    last = frame[frame["step"] == frame["step"].max()]
    means = last.groupby(["architecture", "lr"])[by].mean()
    # plain floats: a run is named by its contents, and NumPy's numbers are written differently
    return {name: float(rate) for name, rate in means.unstack("lr").idxmin(axis=1).items()}
