"""Experiments too long for a chapter: run once from the command line, kept in data/results, plotted
beside live ones.

    python -m ntlib record NAME

Every record states how it was made; `record` refuses a name that is not listed here.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ntlib import experiments, results
from ntlib.experiments import Run
from ntlib.models import presets
from ntlib.profiles import load_profile
from ntlib.tasks.synthetic import AssociativeRecall
from ntlib.tasks.text import Text
from ntlib.training import TrainConfig

ARCHITECTURES = ("Transformer", "Linear attention", "RetNet")
# Five points per architecture, the same for all: too narrow a sweep has misjudged recurrent models
# (2508.19029).
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)


def text_run(architecture: str, lr: float, profile_name: str = "book") -> Run:
    """Language modelling of the default corpus at a profile's size."""
    profile = load_profile(profile_name)
    train = TrainConfig(
        profile.text_steps, profile.text_batch, lr, eval_every=max(profile.text_steps // 20, 1)
    )
    task = Text(profile.text_length)
    return Run(architecture, presets.small(architecture, task.vocab_size), task, train)


def recall_run(architecture: str, lr: float, profile_name: str = "book") -> Run:
    """Associative recall of four pairs in 32 tokens at a profile's size."""
    profile = load_profile(profile_name)
    train = TrainConfig(
        profile.recall_steps,
        profile.recall_batch,
        lr,
        eval_every=max(profile.recall_steps // 20, 1),
        held_out=256,
    )
    task = AssociativeRecall(vocab_size=64, length=32, pairs=4, random_filler=False)
    return Run(architecture, presets.small(architecture, task.vocab_size), task, train)


@dataclass(frozen=True)
class Record:
    """One recorded experiment."""

    profile: str
    seeds: tuple[int, ...]
    columns: dict[str, str]  # meaning and unit of every column
    measure: Callable[[Path], pd.DataFrame]  # given a folder for checkpoints


TRAINING_COLUMNS = {
    "architecture": "name of the model, ntlib.models.presets.small",
    "lr": "peak learning rate",
    "seed": "of weights and batches",
    "step": "optimiser steps done",
    "tokens": "tokens trained on",
    "train_loss": "nats per scored token, mean since the row before",
    "loss": "nats per scored token, held-out sequences",
    "token_accuracy": "share of held-out scored tokens that are right",
    "sequence_accuracy": "share of held-out sequences with every scored token right",
}


def _tuning(make: Callable[..., Run], profile: str) -> Record:
    """Every architecture at every rate, with the seeds of the profile book."""
    seeds = load_profile("book").seeds

    def measure(checkpoints: Path) -> pd.DataFrame:
        runs = [make(name, RATES[0], profile) for name in ARCHITECTURES]
        runs = experiments.grid(runs, lrs=RATES, seeds=seeds)
        return experiments.run_grid(runs, checkpoints=checkpoints, progress=True)

    return Record(profile, seeds, TRAINING_COLUMNS, measure)


RECORDS = {
    "tuning-text": _tuning(text_run, "book"),
    "tuning-recall-full": _tuning(recall_run, "full"),
}


def record(name: str, checkpoints: Path) -> Path:
    """Run an experiment and write its rows to data/results; returns the file.

    Raises ValueError that lists the names for one that is unknown.
    """
    if name not in RECORDS:
        raise ValueError(f"name must be one of {', '.join(RECORDS)}, got {name!r}")
    experiment, start = RECORDS[name], time.perf_counter()
    frame = experiment.measure(checkpoints / name)
    return results.save(
        name,
        frame,
        command=f"python -m ntlib record {name}",
        seeds=experiment.seeds,
        profile=experiment.profile,
        duration_s=time.perf_counter() - start,
        columns=experiment.columns,
    )
