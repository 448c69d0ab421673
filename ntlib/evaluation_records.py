"""The recorded experiments of the chapter on evaluation; see ntlib.records.

In this order: every later one takes its learning rates from an earlier one. Rates are swept with
one seed; what is compared has three.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pandas as pd

from ntlib import evaluation, evaluation_language, experiments, language, results
from ntlib.cluster import Cluster
from ntlib.experiments import Run
from ntlib.profiles import load_profile
from ntlib.record import Record, curves, sweep
from ntlib.tasks import GradedRecall
from ntlib.training import TrainConfig

SEEDS = load_profile("book").seeds
SWEPT = SEEDS[:1]

# The first that has an architecture decides; tuning-text-mega has half of the others' steps.
TEXT_TUNING = (
    "tuning-text",
    "tuning-text-rwkv4",
    "tuning-text-rwkv6",
    "tuning-text-rwkv7",
    "tuning-text-yan",
    "tuning-text-mamba",
    "tuning-text-rest",
    "tuning-text-mega",
)
REST = ("Transformer (no positions)", "Local attention", "S4D", "Hybrid")

# More pairs than the smallest states have dimensions of keys.
MANY = GradedRecall(vocab_size=128, sizes=(2, 4, 8, 16, 32, 48), stretch=4)
MANY_STEPS = 1000
# (architecture, size of the knob in evaluation.STATES): those that learn recall of few.
MANY_STATES: tuple[tuple[str, int | None], ...] = (
    ("Transformer", None),
    ("Hybrid", None),
    ("RWKV-6", None),
    *(("RWKV-7", width) for width in (8, 16, 32, 64)),
)

DRILLED = ("Transformer", "RetNet", "RWKV-7", "Mamba", "Mamba-2", "Hybrid")
# Once more at other rates; RetNet does not reach the target at its better one.
DRILLED_TWICE = ("Transformer", "RWKV-7", "Mamba", "Mamba-2", "Hybrid")
# The larger states of evaluation.LOOKED_UP answer only where all must be held: asked after.
ASKED_AFTER = (("RWKV-7", 64), ("Mamba", 32))


def recall_rates() -> dict[str, float]:
    """The best rate of every architecture on graded recall, from its record."""
    return experiments.best_rates(results.load("tuning-memory")[0])


def copying_rates() -> dict[str, float]:
    """The best rate of every architecture on copying, from its record."""
    return experiments.best_rates(results.load("tuning-copying")[0])


def text_rates() -> dict[str, float]:
    """The best rate of every architecture on the default corpus, from the records TEXT_TUNING."""
    rates: dict[str, float] = {}
    for name in TEXT_TUNING:
        rates = experiments.best_rates(results.load(name)[0]) | rates
    return rates


def _sweep(make: Callable[[str, float, str], Run], architectures: tuple[str, ...]) -> Record:
    """Every architecture at every rate, with one seed."""
    return sweep(make, "book", architectures, language.RATES, SWEPT)


def _tested(
    jobs: Callable[[], list[tuple[Run, int | None]]],
    test: Callable[[list[Run], list[int | None], Path], pd.DataFrame],
    columns: dict[str, str],
) -> Record:
    """Train every (run, size of its state) with every seed, then `test` all of them."""

    def seeded() -> list[tuple[Run, int | None]]:
        return [(one, size) for run, size in jobs() for one in experiments.grid([run], seeds=SEEDS)]

    def measure(checkpoints: Path, workers: int | Cluster) -> pd.DataFrame:
        runs, sizes = (list(part) for part in zip(*seeded(), strict=True))
        experiments.run_grid(runs, workers=workers, checkpoints=checkpoints, progress=True)
        return test(runs, sizes, checkpoints)

    code = ("ntlib/experiments.py", "ntlib/evaluation.py", "ntlib/probes.py")
    return Record("book", SEEDS, columns, lambda: [run for run, _ in seeded()], measure, code)


def _recall_jobs() -> list[tuple[Run, int | None]]:
    rates = recall_rates()
    return [
        (evaluation.recall_run(name, rates[name], size=size), size)
        for name, size in evaluation.recall_contenders()
    ]


def many_name(architecture: str, size: int | None) -> str:
    """What a run of MANY_STATES is called in its record."""
    return architecture if size is None else f"{architecture} ({size})"


def _many_runs() -> list[Run]:
    rates = recall_rates()
    single = [
        Run(
            many_name(name, size),
            evaluation.model_of(name, size, MANY.vocab_size),
            MANY,
            TrainConfig(MANY_STEPS, 10, rates[name], eval_every=100, held_out=128),
        )
        for name, size in MANY_STATES
    ]
    return experiments.grid(single, seeds=SEEDS)


def _copying_jobs() -> list[tuple[Run, int | None]]:
    rates = copying_rates()
    return [(evaluation.copying_run(n, rates[n]), None) for n in evaluation.ARCHITECTURES]


def _lookup_jobs() -> list[tuple[Run, int | None]]:
    rates = recall_rates()
    return [
        (evaluation.lookup_run(order, name, rates[name], size=size), size)
        for order, (name, size) in product(evaluation.ORDERS, evaluation.LOOKED_UP)
        if order == "after" or (name, size) not in ASKED_AFTER
    ]


def _equal_perplexity(
    architectures: tuple[str, ...], best: Callable[[], dict[str, float]], drilled: bool = False
) -> Record:
    """Two passes: training curves of all, which set the target, and the same runs once more up to
    the step at which each was nearest to it. `runs` are those of the first pass."""

    def runs() -> list[Run]:
        rates = best()
        single = [
            evaluation_language.constant_run(name, rates[name], drilled=drilled)
            for name in architectures
        ]
        return experiments.grid(single, seeds=SEEDS)

    def measure(checkpoints: Path, workers: int | Cluster) -> pd.DataFrame:
        def train(part: list[Run]) -> pd.DataFrame:
            return experiments.run_grid(
                part, workers=workers, checkpoints=checkpoints, progress=True
            )

        first = runs()
        curves = train(first)
        target = evaluation_language.target_loss(curves)
        second = evaluation_language.stopped(first, curves, target)
        train(second)
        frames = [evaluation_language.curve_rows(first, curves, target)]
        for at, models in (("target", second), ("end", first)):
            frames.append(evaluation_language.examine(models, target, at, checkpoints))
        return pd.concat(frames, ignore_index=True)

    code = ("ntlib/experiments.py", "ntlib/evaluation_language.py")
    return Record("book", SEEDS, evaluation_language.COLUMNS, runs, measure, code)


RECORDS = {
    "tuning-memory": _sweep(evaluation.recall_run, evaluation.ARCHITECTURES),
    "recall-by-state": _tested(_recall_jobs, evaluation.recall, evaluation.RECALL_COLUMNS),
    "recall-of-many": curves(_many_runs, "book", SEEDS),
    "tuning-copying": _sweep(evaluation.copying_run, evaluation.ARCHITECTURES),
    "copying-by-length": _tested(_copying_jobs, evaluation.copying, evaluation.COPYING_COLUMNS),
    "lookup-order": _tested(_lookup_jobs, evaluation.lookup, evaluation.LOOKUP_COLUMNS),
    "tuning-text-rest": _sweep(language.text_run, REST),
    "equal-perplexity": _equal_perplexity(evaluation.ARCHITECTURES, text_rates),
    "equal-perplexity-drilled": _equal_perplexity(DRILLED, copying_rates, drilled=True),
    "equal-perplexity-recall-rates": _equal_perplexity(DRILLED_TWICE, recall_rates, drilled=True),
}
