"""What a recorded experiment is; ntlib.records lists them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ntlib import dependencies, experiments
from ntlib.cluster import Cluster
from ntlib.experiments import Run


@dataclass(frozen=True)
class Record:
    """One recorded experiment."""

    profile: str
    seeds: tuple[int, ...]
    columns: dict[str, str]  # meaning and unit of every column
    runs: Callable[[], list[Run]]  # everything that is trained
    measure: Callable[[Path, int | Cluster], pd.DataFrame]  # given checkpoints' folder and workers
    # what makes rows of the runs; the code of the runs themselves is found by its imports
    code: tuple[str, ...] = ("ntlib/experiments.py",)

    def sources(self) -> dict[str, str]:
        """{file of ntlib: digest} of the code that decides the rows."""
        found = {name: dependencies.digest_file(dependencies.ROOT / name) for name in self.code}
        for run in self.runs():
            found |= run.sources()
        return dict(sorted(found.items()))

    def definition(self) -> str:
        """A digest that changes with any value of any run."""
        return dependencies.digest(repr(self.runs()))


TRAINING_COLUMNS = {
    "architecture": "name of the model, ntlib.models.presets.small or ntlib.long_range.MODELS",
    "lr": "peak learning rate",
    "seed": "of weights and batches",
    "step": "optimiser steps done",
    "tokens": "tokens trained on",
    "train_loss": "nats per scored token, mean since the row before",
    "loss": "nats per scored token, held-out sequences",
    "token_accuracy": "share of held-out scored tokens that are right",
    "sequence_accuracy": "share of held-out sequences with every scored token right",
}


def sweep(
    make: Callable[[str, float, str], Run],  # of an architecture at a rate, at a profile's size
    profile: str,
    architectures: tuple[str, ...],
    rates: tuple[float, ...],
    seeds: tuple[int, ...],
) -> Record:
    """Every architecture at every rate with every seed."""

    def runs() -> list[Run]:
        single = [make(name, rates[0], profile) for name in architectures]
        return experiments.grid(single, lrs=rates, seeds=seeds)

    return curves(runs, profile, seeds)


def curves(runs: Callable[[], list[Run]], profile: str, seeds: tuple[int, ...]) -> Record:
    """The training curves of `runs`, which have these seeds."""

    def measure(checkpoints: Path, workers: int | Cluster) -> pd.DataFrame:
        return experiments.run_grid(runs(), workers=workers, checkpoints=checkpoints, progress=True)

    return Record(profile, seeds, TRAINING_COLUMNS, runs, measure)
