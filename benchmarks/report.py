"""Rows of a measurement, and the lines that are printed while it runs."""

from dataclasses import dataclass

import pandas as pd

from benchmarks.limits import Limits, Work
from ntlib.measuring import compare, ratio

OURS, ATTENTION = "ntlib", "attention"
SECONDS = ["median_s", "q25_s", "q75_s", "min_s"]
COLUMNS = {
    "part": "operator (alone), mixer (a layer of width 256) or block (a model of one layer)",
    "name": "of the mixer or operator",
    "phase": "forward, training (forward and backward) or decoding (per token, one sequence)",
    "batch": "sequences",
    "length": "tokens per sequence; tokens read before decoding",
    "contender": "ntlib, attention (ours, torch's fused kernel) or a peer",
    "median_s": "seconds, median over repeats",
    "q25_s": "seconds, lower quartile",
    "q75_s": "seconds, upper quartile",
    "min_s": "seconds, minimum",
    "repeats": "rounds, contenders alternating",
    "discarded": "blocks measured again because other processes used the cores",
    "disturbed": "samples kept although others used more than that, after the last retry",
    "bound_s": "seconds, the least for ntlib's work by the limits measured in this run",
    "binding": "the limit that binds: memory or arithmetic",
    "matmul_flops_per_s": "floating-point operations per second in a large matrix product",
    "bandwidth_bytes_per_s": "bytes per second, best of copy, triad and read",
    "exponentials_per_s": "exponentials per second from cache, ntlib's own",
}


@dataclass(frozen=True)
class Settings:
    """How carefully to measure."""

    repeats: int = 7
    warmup: int = 2
    block_seconds: float = 0.15
    max_foreign_load: float | None = 0.1

    def compare(self, contenders) -> pd.DataFrame:
        frame = compare(
            contenders,
            repeats=self.repeats,
            warmup=self.warmup,
            min_block_seconds=self.block_seconds,
            max_foreign_load=self.max_foreign_load,
        )
        if self.max_foreign_load is None:
            frame["discarded"] = frame["disturbed"] = 0
        return frame


QUICK = Settings(repeats=1, warmup=1, block_seconds=0.0, max_foreign_load=None)


def describe(frame: pd.DataFrame, where: dict, work: Work, limits: Limits) -> pd.DataFrame:
    """The rows of one comparison, completed."""
    bound = {
        "bound_s": limits.seconds(work),
        "binding": limits.binding(work),
        **vars(limits),
    }
    return frame.assign(**where, **bound)[list(COLUMNS)]


def line(frame: pd.DataFrame, where: dict, work: Work, limits: Limits) -> str:
    """Ours, the best peer, attention and the bound in one line."""
    median = frame.set_index("contender").median_s
    shape = f"{where['batch']}x{where['length']}"
    found = [f"{where['name']}, {where['phase']}, {shape}: {_ms(median[OURS])}"]
    rivals = median.drop([OURS, ATTENTION], errors="ignore")
    if len(rivals):
        best = rivals.idxmin()
        found.append(f"{best} {_ms(rivals[best])}: {ratio(frame, best, OURS)}")
    if ATTENTION in median:
        found.append(f"{ATTENTION} {_ms(median[ATTENTION])}: {ratio(frame, ATTENTION, OURS)}")
    bound = limits.seconds(work)
    found.append(f"bound {_ms(bound)} ({limits.binding(work)}): {bound / median[OURS]:.0%} reached")
    disturbed = int(frame.disturbed.sum())
    if disturbed:
        found.append(f"{disturbed} samples disturbed by other processes")
    return " | ".join(found)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
