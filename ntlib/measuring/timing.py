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
import psutil
import torch

# The kernel counts processor time in steps of 10 ms per core; over a shorter block the share of
# other processes would be mostly rounding.
MIN_WATCHED_SECONDS = 0.1
MAX_RETRIES = 5


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
    max_foreign_load: float | None = None,
) -> pd.DataFrame:
    """Time each contender ``repeats`` times, alternating between them.

    contenders: name -> a function without arguments.
    repeats: rounds; one sample per contender and round.
    warmup: calls before the first round (compilation, caches, allocator).
    min_block_seconds: a sample averages over as many calls as last this long.
    device: where the work runs; CUDA work is synchronised before the clock is read.
    max_foreign_load: a sample during which other processes used more than this fraction of all
        cores is measured again, up to ``MAX_RETRIES`` times; needs blocks of 0.1 s or more. None
        keeps every sample.

    Returns one row per contender, in the given order, with ``contender``, ``median_s``,
    ``q25_s``, ``q75_s``, ``min_s`` (seconds per call) and ``repeats``; with ``max_foreign_load``
    also ``discarded`` (blocks measured again) and ``disturbed`` (samples that were still above it
    after the last retry, and are kept). The raw samples, seconds per call by round, are in
    ``frame.attrs["samples"][name]``.
    """
    _check(contenders, repeats, warmup, min_block_seconds, max_foreign_load)
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else _nothing
    names = list(contenders)
    calls = {
        name: _calls_per_block(run, wait, warmup, min_block_seconds)
        for name, run in contenders.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in names}
    loads: dict[str, list[float]] = {name: [] for name in names}  # of every block, kept or not
    with _no_garbage_collection():
        for turn in range(repeats):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                run = contenders[name]
                if max_foreign_load is None:
                    samples[name].append(_block(run, wait, calls[name]))
                else:
                    seconds, seen = _quiet_block(run, wait, calls[name], max_foreign_load)
                    samples[name].append(seconds)
                    loads[name] += seen
    frame = pd.DataFrame([_summary(name, samples[name]) for name in names])
    if max_foreign_load is not None:
        above = [sum(load > max_foreign_load for load in loads[name]) for name in names]
        frame["discarded"] = [len(loads[name]) - repeats for name in names]
        frame["disturbed"] = np.array(above) - frame["discarded"]
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
    max_foreign_load: float | None,
) -> None:
    if not contenders:
        raise ValueError("contenders is empty; give at least one name -> function")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if warmup < 0:
        raise ValueError(f"warmup must not be negative, got {warmup}")
    if min_block_seconds < 0:
        raise ValueError(f"min_block_seconds must not be negative, got {min_block_seconds}")
    if max_foreign_load is None:
        return
    if not 0 < max_foreign_load < 1:
        raise ValueError(f"max_foreign_load must lie between 0 and 1, got {max_foreign_load}")
    if min_block_seconds < MIN_WATCHED_SECONDS:
        raise ValueError(
            f"with max_foreign_load, min_block_seconds must be at least {MIN_WATCHED_SECONDS}, "
            f"got {min_block_seconds}"
        )


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


def _quiet_block(
    run: Callable[[], object], wait: Callable[[], None], calls: int, max_foreign_load: float
) -> tuple[float, list[float]]:
    """Seconds per call of the first block that others left alone, or of the last try; the share of
    the cores that others used during each."""
    loads: list[float] = []
    while True:
        before = _processor_seconds()
        seconds = _block(run, wait, calls)
        busy, own = (b - a for a, b in zip(before, _processor_seconds(), strict=True))
        loads.append((busy - own) / (seconds * calls * psutil.cpu_count()))
        if loads[-1] <= max_foreign_load or len(loads) > MAX_RETRIES:
            return seconds, loads


def _processor_seconds() -> tuple[float, float]:
    """Used so far by everyone on this machine (and by its host, where that is told), and by this
    process."""
    times = psutil.cpu_times()
    busy = sum(
        getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal")
    )
    return busy, time.process_time()


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
