"""Time contenders side by side, so that noise of the machine hits all of them alike.

A clock that drifts, a neighbour that wakes up or a hot processor slows whatever runs just then.
Contenders are therefore measured in rounds: in each round every contender runs one block, and the
order rotates from round to round. Speed-ups are the median of the *per-round* ratios, in which
slow drifts cancel.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch


@dataclass(frozen=True)
class Ratio:
    """How many times longer one contender takes than another: median and quartiles over rounds."""

    median: float
    q25: float
    q75: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x [{self.q25:.2f}, {self.q75:.2f}]"


def compare(
    contenders: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 7,
    warmup: int = 1,
    min_block_seconds: float = 0.02,
    device: str | torch.device = "cpu",
) -> pd.DataFrame:
    """Time each contender ``repeats`` times, alternating between them.

    contenders: name -> a function without arguments.
    repeats: rounds; one sample per contender and round.
    warmup: calls before the first round (compilation, caches, allocator).
    min_block_seconds: a sample averages over as many calls as last this long.
    device: where the work runs; CUDA work is synchronised before the clock is read.

    Returns one row per contender, in the given order, with ``contender``, ``median_s``,
    ``q25_s``, ``q75_s``, ``min_s`` (seconds per call) and ``repeats``; the raw samples, seconds
    per call by round, are in ``frame.attrs["samples"][name]``.
    """
    _check(contenders, repeats, warmup, min_block_seconds)
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else _nothing
    names = list(contenders)
    calls = {
        name: _calls_per_block(run, wait, warmup, min_block_seconds)
        for name, run in contenders.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in names}
    with _no_garbage_collection():
        for turn in range(repeats):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                samples[name].append(_block(contenders[name], wait, calls[name]))
    frame = pd.DataFrame([_summary(name, samples[name]) for name in names])
    frame.attrs["samples"] = samples
    return frame


def ratio(frame: pd.DataFrame, numerator: str, denominator: str) -> Ratio:
    """Median and quartiles of numerator/denominator taken round by round.

    ``ratio(frame, "slow", "fast").median`` is the speed-up of ``fast`` over ``slow``.
    """
    samples = frame.attrs.get("samples", {})
    for name in (numerator, denominator):
        if name not in samples:
            raise ValueError(f"no samples for contender {name!r}; measured were {sorted(samples)}")
    quotients = np.asarray(samples[numerator]) / np.asarray(samples[denominator])
    q25, median, q75 = np.quantile(quotients, [0.25, 0.5, 0.75])
    return Ratio(median=float(median), q25=float(q25), q75=float(q75))


def _check(
    contenders: Mapping[str, Callable[[], object]],
    repeats: int,
    warmup: int,
    min_block_seconds: float,
) -> None:
    if not contenders:
        raise ValueError("contenders is empty; give at least one name -> function")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if warmup < 0:
        raise ValueError(f"warmup must not be negative, got {warmup}")
    if min_block_seconds < 0:
        raise ValueError(f"min_block_seconds must not be negative, got {min_block_seconds}")


def _calls_per_block(
    run: Callable[[], object], wait: Callable[[], None], warmup: int, min_block_seconds: float
) -> int:
    """Double the number of calls until a block lasts long enough, then scale to the target."""
    for _ in range(warmup):
        run()
    calls = 1
    while True:
        seconds = calls * _block(run, wait, calls)
        if seconds >= min_block_seconds / 2:
            return max(1, math.ceil(calls * min_block_seconds / seconds))
        calls *= 2


def _block(run: Callable[[], object], wait: Callable[[], None], calls: int) -> float:
    """Seconds per call, averaged over ``calls`` calls."""
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait()
    # A clock tick, so that a block faster than the clock's resolution still has a length.
    return max(time.perf_counter() - start, 1e-9) / calls


def _summary(name: str, seconds: list[float]) -> dict[str, object]:
    q25, median, q75 = np.quantile(seconds, [0.25, 0.5, 0.75])
    return {
        "contender": name,
        "median_s": median,
        "q25_s": q25,
        "q75_s": q75,
        "min_s": min(seconds),
        "repeats": len(seconds),
    }


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _nothing() -> None:
    """Work on the CPU has ended when the call returns."""
