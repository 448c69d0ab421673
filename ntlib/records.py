"""Experiments too long for a chapter: run once from the command line, kept in data/results, plotted
beside live ones.

    python -m ntlib record NAME

Every record states how it was made; `record` refuses a name that is not listed here.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

import pandas as pd

from ntlib import (
    evaluation_records,
    experiments,
    language,
    long_range,
    results,
    selection,
    tracking,
)
from ntlib.cluster import Cluster
from ntlib.experiments import Run
from ntlib.models import presets
from ntlib.profiles import load_profile
from ntlib.record import TRAINING_COLUMNS, Record, sweep
from ntlib.tasks import Digits

ARCHITECTURES = ("Transformer", "Linear attention", "RetNet")


def _tuning(
    make: Callable[..., Run],
    profile: str,
    architectures: tuple[str, ...] = ARCHITECTURES,
    rates: tuple[float, ...] = language.RATES,
) -> Record:
    """Every architecture at every rate, with the seeds of the profile book."""
    return sweep(make, profile, architectures, rates, load_profile("book").seeds)


TRACKING_RATE = 8e-3  # one for all: with half of it, pilot runs learnt the same things, later
TRACKING_LENGTHS = (16, 32, 64, 128, 256)


TRACKED = ("parity", "count modulo 3", "S3", "S5, swaps")


def _tracking(mixer: str, layers: tuple[int, ...] = (1, 2)) -> Record:
    """One mixer on every task, at every depth."""
    seeds = load_profile("full").seeds[:3]

    def jobs() -> list[tuple[str, Run]]:
        single = [
            (task, tracking.run(mixer, task, n, TRACKING_RATE, "full"))
            for task in TRACKED
            for n in layers
        ]
        return [(task, run) for task, one in single for run in experiments.grid([one], seeds=seeds)]

    def measure(checkpoints: Path, workers: int | Cluster) -> pd.DataFrame:
        return tracking.track(jobs(), TRACKING_LENGTHS, checkpoints, workers=workers, progress=True)

    code = ("ntlib/experiments.py", "ntlib/probes.py", "ntlib/tracking.py")
    return Record(
        "full", seeds, tracking.COLUMNS, lambda: [run for _, run in jobs()], measure, code
    )


LONG = ("S4", "S4D", "S5", "Transformer", "Local attention", "LSTM")
ARENA = ("S4D", "Transformer", "LSTM")
CHUNKS = ("Mega", "Mega-chunk")
CROSSING = (*presets.MEGA_SMALL, "Local attention (window 8)", "Strided attention")
GAPS = ("S4", "S4D", "S5", "Mamba", "Transformer", "LSTM")


def _tuned(
    makes: Mapping[str, Callable[[str, float], Run]], architectures: tuple[str, ...], tuning: str
) -> Record:
    """Every architecture on every task, at the rate that was best for it in another record."""
    seeds = load_profile("book").seeds

    def grids() -> dict[str, list[Run]]:
        rates = experiments.best_rates(results.load(tuning)[0])
        return {
            task: experiments.grid([make(name, rates[name]) for name in architectures], seeds=seeds)
            for task, make in makes.items()
        }

    def measure(checkpoints: Path, workers: int | Cluster) -> pd.DataFrame:
        frames = []
        for task, runs in grids().items():
            frame = experiments.run_grid(
                runs, workers=workers, checkpoints=checkpoints, progress=True
            )
            frame.insert(0, "task", task)
            frame.insert(1, "length", runs[0].task.length)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    columns = {"task": "what was trained on", "length": "steps of a sequence"}
    return Record(
        "book",
        seeds,
        columns | TRAINING_COLUMNS,
        lambda: list(chain.from_iterable(grids().values())),
        measure,
    )


def _far() -> Record:
    """Induction heads, see selection.far_runs, tested up to 2^20 tokens."""
    seeds, lengths = load_profile("book").seeds, load_profile("book").far_lengths

    def runs() -> list[Run]:
        rates = experiments.best_rates(results.load("tuning-induction")[0])
        return experiments.grid(selection.far_runs(rates, steps=800), seeds=seeds)

    def measure(checkpoints: Path, workers: int | Cluster) -> pd.DataFrame:
        experiments.run_grid(runs(), workers=workers, checkpoints=checkpoints, progress=True)
        return selection.far(runs(), lengths, 2**19, checkpoints, least=4)

    code = ("ntlib/experiments.py", "ntlib/selection.py")
    return Record("book", seeds, selection.FAR_COLUMNS, runs, measure, code)


def _states() -> Record:
    """Mamba with states of several sizes on text, at the best rate of the published one."""
    seeds = load_profile("book").seeds

    def runs() -> list[Run]:
        rate = experiments.best_rates(results.load("tuning-text-mamba")[0])["Mamba"]
        single = [selection.ablation_run(name, rate) for name in selection.STATES]
        return experiments.grid(single, seeds=seeds)

    def measure(checkpoints: Path, workers: int | Cluster) -> pd.DataFrame:
        return experiments.run_grid(runs(), workers=workers, checkpoints=checkpoints, progress=True)

    return Record("book", seeds, TRAINING_COLUMNS, runs, measure)


def _digits_784(permuted: bool) -> Callable[[str, float], Run]:
    task = Digits(28, permuted=permuted)
    return partial(long_range.classifier_run, task=task, steps=300, batch_size=16)


RECORDS = {
    "tuning-text": _tuning(language.text_run, "book"),
    "tuning-recall-full": _tuning(language.recall_run, "full"),
    "tuning-text-rwkv4": _tuning(language.text_run, "book", ("RWKV-4",)),
    "tuning-text-rwkv5": _tuning(language.text_run, "book", ("RWKV-5",)),
    "tuning-text-rwkv6": _tuning(language.text_run, "book", ("RWKV-6",)),
    "tuning-text-rwkv7": _tuning(language.text_run, "book", ("RWKV-7",)),
    "tuning-text-mixers": _tuning(language.mixer_run, "book", ("RWKV-4", "RWKV-7")),
    "tuning-text-yan": _tuning(language.text_run, "book", ("Yan",)),
    "tuning-recall-yan": _tuning(language.recall_run, "book", ("Yan",)),
    "recall-yan": _tuned(
        {"four pairs": partial(language.recall_run, profile_name="full")},
        ("Yan",),
        "tuning-recall-yan",
    ),
    "tuning-recall-mamba": _tuning(language.recall_run, "book", ("Mamba",)),
    "recall-mamba": _tuned(
        {"four pairs": partial(language.recall_run, profile_name="full")},
        ("Mamba",),
        "tuning-recall-mamba",
    ),
    "yan-readings": _tuning(
        language.reading_run, "book", tuple(presets.YAN_READINGS), language.RATES[2:]
    ),
    "tuning-text-mamba": _tuning(language.text_run, "book", ("Mamba", "Mamba-2")),
    "tuning-selective": _tuning(
        selection.copying_run, "book", tuple(selection.COPYING), long_range.RATES
    ),
    "tuning-induction": _tuning(
        selection.induction_run, "book", tuple(selection.INDUCTION), selection.INDUCTION_RATES
    ),
    "induction-far": _far(),
    "selective-longer": _tuned(
        {"256 places": partial(selection.copying_run, context=256, steps=800)},
        tuple(selection.COPYING),
        "tuning-selective",
    ),
    "mamba-states": _states(),
    "tuning-text-mega": _tuning(
        language.short_text_run, "book", ("Transformer", *presets.MEGA_SMALL)
    ),
    "tuning-digits": _tuning(long_range.digits_run, "book", LONG, long_range.RATES),
    "tuning-lists": _tuning(long_range.list_run, "book", ARENA, long_range.RATES),
    "tuning-pathfinder": _tuning(long_range.pathfinder_run, "book", ARENA, long_range.RATES),
    "tuning-gaps": _tuning(long_range.gap_run, "book", GAPS, long_range.RATES),
    "tuning-digits-mega": _tuning(
        long_range.digits_run, "book", tuple(presets.MEGA_SMALL), long_range.RATES
    ),
    "tuning-gaps-mega": _tuning(long_range.gap_run, "book", CROSSING, long_range.RATES),
    "tuning-lists-mega": _tuning(long_range.list_run, "book", CHUNKS, long_range.RATES),
    "tuning-pathfinder-mega": _tuning(long_range.pathfinder_run, "book", CHUNKS, long_range.RATES),
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
    **evaluation_records.RECORDS,
}


def record(
    name: str,
    checkpoints: Path,
    workers: int | Cluster = -1,
    directory: Path = results.DIRECTORY,
) -> Path:
    """Run an experiment, on this machine's cores or on a cluster, and write its rows to
    `directory`; returns the file.

    Raises ValueError that lists the names for one that is unknown.
    """
    if name not in RECORDS:
        raise ValueError(f"name must be one of {', '.join(RECORDS)}, got {name!r}")
    experiment, start = RECORDS[name], time.perf_counter()
    # read now: the files may change while the experiment runs, the code in memory does not
    origin = {"sources": experiment.sources(), "runs": experiment.definition()}
    frame = experiment.measure(checkpoints / name, workers)
    origin["machines"] = experiments.machines(experiment.runs(), checkpoints / name)
    return results.save(
        name,
        frame,
        command=f"python -m ntlib record {name}",
        seeds=experiment.seeds,
        profile=experiment.profile,
        duration_s=time.perf_counter() - start,
        columns=experiment.columns,
        origin=origin,
        directory=directory,
    )


def state(name: str, directory: Path = results.DIRECTORY) -> tuple[str, list[str]]:
    """Whether a record is "fresh", "stale" or "unknown" (it does not say what made it), and why."""
    provenance = results.load(name, directory)[1]
    reasons = results.outdated(provenance)
    if reasons is None:
        return "unknown", ["made before records kept digests of their code"]
    try:
        if name in RECORDS and RECORDS[name].definition() != provenance["runs"]:
            reasons.append("its runs are defined otherwise now")
    except ValueError as error:  # the record that its rates come from is gone
        reasons.append(str(error))
    return ("stale" if reasons else "fresh"), reasons
