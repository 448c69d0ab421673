"""Time and memory against length: fitted exponents, and where a mixer overtakes attention."""

import math
from collections.abc import Callable

import pandas as pd

from benchmarks.contenders import Contender, forward_call, sequences, training_call
from benchmarks.report import ATTENTION, Settings
from ntlib.measuring import fit_exponent, peak_bytes

PHASES = {"forward": forward_call, "training": training_call}
LENGTHS = tuple(2**n for n in range(8, 17))
ASYMPTOTIC = 1024  # exponents are fitted from here on: below, the cost of a call matters
COLUMNS = {
    "phase": "forward, or training (forward and backward); one sequence, width 256",
    "length": "tokens",
    "contender": "mixer of ntlib; attention is torch's fused kernel",
    "median_s": "seconds, median over repeats",
    "q25_s": "seconds, lower quartile",
    "q75_s": "seconds, upper quartile",
    "min_s": "seconds, minimum",
    "repeats": "rounds, contenders alternating",
    "discarded": "blocks measured again because other processes used the cores",
    "disturbed": "samples kept although others used more than that, after the last retry",
    "peak_bytes": "tensors alive at the same time at the worst moment of a call, weights and input "
    "not counted",
}


def measure(
    contenders: dict[str, Contender],
    lengths: tuple[int, ...],
    settings: Settings,
    max_seconds: float,
    say: Callable[[str], None],
) -> pd.DataFrame:
    """All contenders at all lengths, side by side at each; one that would take longer than
    `max_seconds` per call, going by its last two lengths, sits out the longer ones."""
    frames = []
    for phase, call in PHASES.items():
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for length in lengths:
            x = sequences(1, length)
            runs = {
                name: call(contender, x)
                for name, contender in contenders.items()
                if _expected(seconds[name]) <= max_seconds
            }
            frame = settings.compare(runs)
            for name, value in zip(frame.contender, frame.median_s, strict=True):
                seconds[name].append(value)
            peaks = [peak_bytes(runs[name]) for name in frame.contender]
            frames.append(frame.assign(phase=phase, length=length, peak_bytes=peaks)[list(COLUMNS)])
            times = ", ".join(f"{name} {1e3 * seconds[name][-1]:.3g} ms" for name in runs)
            say(f"{phase}, {length} tokens: {times}")
    return pd.concat(frames, ignore_index=True)


def _expected(seconds: list[float]) -> float:
    """Of the next length: it grows as it did last, at least linearly."""
    if len(seconds) < 2:
        return 0.0
    return seconds[-1] * max(2.0, seconds[-1] / seconds[-2])


def report(frame: pd.DataFrame) -> list[str]:
    """Exponents of time and memory, and the crossover with attention, a line each."""
    lines = []
    for phase, part in frame.groupby("phase", sort=False):
        for name, rows in part.groupby("contender", sort=False):
            far = rows[rows.length >= min(ASYMPTOTIC, rows.length.iloc[-1] // 4)]
            found = f"{phase}, {name}:"
            if len(far) >= 3:
                time, memory = (
                    fit_exponent(far.length, far[column]) for column in ("median_s", "peak_bytes")
                )
                found += f" time ~ length^{time}, memory ~ length^{memory};"
            if name != ATTENTION:
                found += f" faster than attention {crossover(part, name)}"
            lines.append(found)
    return lines


def crossover(part: pd.DataFrame, name: str) -> str:
    """From which length on `name` is faster than attention at every length that both ran."""
    times = part.pivot(index="length", columns="contender", values="median_s")
    times = times[[name, ATTENTION]].dropna()
    lead = [math.log(a / b) for a, b in zip(times[ATTENTION], times[name], strict=True)]
    lengths = list(times.index)
    if lead[-1] <= 0:
        return f"nowhere up to {lengths[-1]} tokens"
    slower = [i for i, value in enumerate(lead) if value <= 0]
    if not slower:
        return f"already at {lengths[0]} tokens"
    i = slower[-1]
    share = -lead[i] / (lead[i + 1] - lead[i])  # both grow as powers: straight in logarithms
    crossing = lengths[i] * (lengths[i + 1] / lengths[i]) ** share
    return f"from about {crossing:.0f} tokens on"
