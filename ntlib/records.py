"""Experiments too long for a chapter: run once from the command line, kept in data/results, plotted
beside live ones.

    python -m ntlib record NAME

Every record states how it was made; `record` refuses a name that is not listed here.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from ntlib import experiments, long_range, results, selection, tracking
from ntlib.experiments import Run
from ntlib.models import presets
from ntlib.profiles import load_profile
from ntlib.tasks import Digits
from ntlib.tasks.synthetic import AssociativeRecall
from ntlib.tasks.text import Text
from ntlib.training import TrainConfig

ARCHITECTURES = ("Transformer", "Linear attention", "RetNet")
# Five points per architecture, the same for all: too narrow a sweep has misjudged recurrent models
# (2508.19029).
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)


def text_run(
    architecture: str, lr: float, profile_name: str = "book", steps: int | None = None
) -> Run:
    """Language modelling of the default corpus at a profile's size, or for `steps` steps."""
    profile = load_profile(profile_name)
    steps = steps or profile.text_steps
    train = TrainConfig(steps, profile.text_batch, lr, eval_every=max(steps // 20, 1))
    task = Text(profile.text_length)
    return Run(architecture, presets.small(architecture, task.vocab_size), task, train)


def mixer_run(architecture: str, lr: float, profile_name: str = "book") -> Run:
    """`text_run` of RWKV's time mix alone, in the Transformer's skeleton at its parameters."""
    run, transformer = (text_run(name, lr, profile_name) for name in (architecture, "Transformer"))
    model = replace(transformer.model, mixer=run.model.mixer, ffn_dim=MIXER_FFN_DIM[architecture])
    return replace(run, architecture=f"{architecture} (mixer)", model=model)


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


# hidden width of SwiGLU at which the Transformer's skeleton has its 131,136 parameters, within 0.3%
MIXER_FFN_DIM = {"RWKV-4": 168, "RWKV-7": 134}

TRAINING_COLUMNS = {
    "architecture": "name of the model in ntlib.models.presets.small, ntlib.long_range or "
    "ntlib.selection",
    "lr": "peak learning rate",
    "seed": "of weights and batches",
    "step": "optimiser steps done",
    "tokens": "tokens trained on",
    "train_loss": "nats per scored token, mean since the row before",
    "loss": "nats per scored token, held-out sequences",
    "token_accuracy": "share of held-out scored tokens that are right",
    "sequence_accuracy": "share of held-out sequences with every scored token right",
}


def _tuning(
    make: Callable[..., Run],
    profile: str,
    architectures: tuple[str, ...] = ARCHITECTURES,
    rates: tuple[float, ...] = RATES,
) -> Record:
    """Every architecture at every rate, with the seeds of the profile book."""
    seeds = load_profile("book").seeds

    def measure(checkpoints: Path) -> pd.DataFrame:
        runs = [make(name, rates[0], profile) for name in architectures]
        runs = experiments.grid(runs, lrs=rates, seeds=seeds)
        return experiments.run_grid(runs, checkpoints=checkpoints, progress=True)

    return Record(profile, seeds, TRAINING_COLUMNS, measure)


TRACKING_RATE = 8e-3  # one for all: with half of it, pilot runs learnt the same things, later
TRACKING_LENGTHS = (16, 32, 64, 128, 256)


TRACKED = ("parity", "count modulo 3", "S3", "S5, swaps")


def _tracking(mixer: str, layers: tuple[int, ...] = (1, 2)) -> Record:
    """One mixer on every task, at every depth."""
    seeds = load_profile("full").seeds[:3]

    def measure(checkpoints: Path) -> pd.DataFrame:
        jobs = []
        for task in TRACKED:
            runs = [tracking.run(mixer, task, n, TRACKING_RATE, "full") for n in layers]
            grid = experiments.grid(runs, seeds=seeds)
            jobs += [(task, run) for run in grid]
        return tracking.track(jobs, TRACKING_LENGTHS, checkpoints, progress=True)

    return Record("full", seeds, tracking.COLUMNS, measure)


LONG = ("S4", "S4D", "S5", "Transformer", "Local attention", "LSTM")
ARENA = ("S4D", "Transformer", "LSTM")
GAPS = ("S4", "S4D", "S5", "Mamba", "Transformer", "LSTM")


def _tuned(
    makes: Mapping[str, Callable[[str, float], Run]], architectures: tuple[str, ...], tuning: str
) -> Record:
    """Every architecture on every task, at the rate that was best for it in another record."""
    seeds = load_profile("book").seeds

    def measure(checkpoints: Path) -> pd.DataFrame:
        rates, frames = experiments.best_rates(results.load(tuning)[0]), []
        for task, make in makes.items():
            runs = experiments.grid(
                [make(name, rates[name]) for name in architectures], seeds=seeds
            )
            frame = experiments.run_grid(runs, checkpoints=checkpoints, progress=True)
            frame.insert(0, "task", task)
            frame.insert(1, "length", runs[0].task.length)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    columns = {"task": "what was trained on", "length": "steps of a sequence"}
    return Record("book", seeds, columns | TRAINING_COLUMNS, measure)


def _far() -> Record:
    """Induction heads at the best rate of each architecture, tested up to 2^20 tokens."""
    seeds, lengths = load_profile("book").seeds, load_profile("book").far_lengths

    def measure(checkpoints: Path) -> pd.DataFrame:
        rates = experiments.best_rates(results.load("tuning-induction")[0])
        runs = [selection.induction_run(n, rates[n], steps=800) for n in selection.INDUCTION]
        runs = experiments.grid(runs, seeds=seeds)
        experiments.run_grid(runs, checkpoints=checkpoints, progress=True)
        return selection.far(runs, lengths, 2**19, checkpoints, least=4)

    return Record("book", seeds, selection.FAR_COLUMNS, measure)


def _states() -> Record:
    """Mamba with states of several sizes on text, at the best rate of the published one."""
    seeds = load_profile("book").seeds

    def measure(checkpoints: Path) -> pd.DataFrame:
        rate = experiments.best_rates(results.load("tuning-text-mamba")[0])["Mamba"]
        runs = [selection.ablation_run(name, rate) for name in selection.STATES]
        runs = experiments.grid(runs, seeds=seeds)
        return experiments.run_grid(runs, checkpoints=checkpoints, progress=True)

    return Record("book", seeds, TRAINING_COLUMNS, measure)


def _digits_784(permuted: bool) -> Callable[[str, float], Run]:
    task = Digits(28, permuted=permuted)
    return partial(long_range.classifier_run, task=task, steps=300, batch_size=16)


RECORDS = {
    "tuning-text": _tuning(text_run, "book"),
    "tuning-recall-full": _tuning(recall_run, "full"),
    "tuning-text-rwkv4": _tuning(text_run, "book", ("RWKV-4",)),
    "tuning-text-rwkv5": _tuning(text_run, "book", ("RWKV-5",)),
    "tuning-text-rwkv6": _tuning(text_run, "book", ("RWKV-6",)),
    "tuning-text-rwkv7": _tuning(text_run, "book", ("RWKV-7",)),
    "tuning-text-mixers": _tuning(mixer_run, "book", ("RWKV-4", "RWKV-7")),
    "tuning-text-mamba": _tuning(text_run, "book", ("Mamba", "Mamba-2")),
    "tuning-selective": _tuning(
        selection.copying_run, "book", tuple(selection.COPYING), long_range.RATES
    ),
    "tuning-induction": _tuning(selection.induction_run, "book", tuple(selection.INDUCTION)),
    "induction-far": _far(),
    "selective-longer": _tuned(
        {"256 places": partial(selection.copying_run, context=256, steps=800)},
        tuple(selection.COPYING),
        "tuning-selective",
    ),
    "mamba-states": _states(),
    "tuning-digits": _tuning(long_range.digits_run, "book", LONG, long_range.RATES),
    "tuning-lists": _tuning(long_range.list_run, "book", ARENA, long_range.RATES),
    "tuning-pathfinder": _tuning(long_range.pathfinder_run, "book", ARENA, long_range.RATES),
    "tuning-gaps": _tuning(long_range.gap_run, "book", GAPS, long_range.RATES),
    "digits-784": _tuned(
        {"in order": _digits_784(False), "permuted": _digits_784(True)}, LONG, "tuning-digits"
    ),
    "lists-by-length": _tuned(
        {f"ListOps {n}": partial(long_range.list_run, length=n) for n in (32, 64, 128)},
        ARENA,
        "tuning-lists",
    ),
    "pathfinder-by-length": _tuned(
        {f"Pathfinder {n}": partial(long_range.pathfinder_run, side=n) for n in (12, 16)},
        ARENA,
        "tuning-pathfinder",
    ),
    "pathfinder-layer-norm": _tuned(
        {"Pathfinder 12": partial(long_range.pathfinder_run, norm="layer")},
        ("S4D", "Transformer"),
        "tuning-pathfinder",
    ),
    "tracking-rwkv7-full": _tracking("RWKV-7"),
    "tracking-rwkv7-doubled-full": _tracking("RWKV-7 (doubled step)"),
    "tracking-rwkv6-full": _tracking("RWKV-6"),
    "tracking-mamba-full": _tracking("Mamba"),
    "tracking-retnet-full": _tracking("RetNet"),
    "tracking-lstm-full": _tracking("LSTM"),
    "tracking-transformer-full": _tracking("Transformer", (1, 2, 3, 4)),
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
