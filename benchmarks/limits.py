"""What this machine can do at best, and how long a given amount of work takes at least.

Work is counted in bytes that must move between memory and the cores (every input read once, every
output written once), in instruction slots (a multiply-add, a multiplication and an addition take
one per number each) and in exponentials, of which each costs EXP_SLOTS slots: reduction of the
range and a polynomial. The bound is the slower of bytes and slots. Slots per second are half the
floating-point rate of a large matrix product, where every slot does a multiply-add.
"""

from dataclasses import dataclass

import numba
import numpy as np
import torch

from ntlib.measuring import Machine, compare, measure_machine
from ntlib.ops.compiled import exp, kernel

EXP_SLOTS = 10
STREAM_NUMBERS = 2**25  # float32 numbers per array, 128 MiB: beyond the caches


@dataclass(frozen=True)
class Work:
    """What a call must do, whatever its implementation."""

    slots: float = 0.0  # multiply-adds, additions, multiplications
    bytes: float = 0.0
    exponentials: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.slots + other.slots,
            self.bytes + other.bytes,
            self.exponentials + other.exponentials,
        )


@dataclass(frozen=True)
class Limits:
    """Rates measured in the same run as what they are compared with."""

    matmul_flops_per_s: float
    bandwidth_bytes_per_s: float  # the best of copy, triad and read
    exponentials_per_s: float  # ours, from cache; for information, the bound counts slots

    @classmethod
    def measure(cls, quick: bool = False) -> "Limits":
        """A few seconds; `quick` measures on toy sizes, to try the code."""
        machine = Machine("", 1, 1e11, 1e10) if quick else measure_machine()
        streams = _stream_bandwidth(2**12 if quick else STREAM_NUMBERS)
        return cls(
            machine.matmul_flops_per_s,
            max(machine.bandwidth_bytes_per_s, streams),
            _exponentials_per_s(),
        )

    def seconds(self, work: Work) -> float:
        """The least time for `work`."""
        slots = work.slots + EXP_SLOTS * work.exponentials
        return max(work.bytes / self.bandwidth_bytes_per_s, slots / (self.matmul_flops_per_s / 2))

    def binding(self, work: Work) -> str:
        """Which limit binds: "memory" or "arithmetic"."""
        return (
            "memory" if self.seconds(Work(bytes=work.bytes)) == self.seconds(work) else "arithmetic"
        )

    def __str__(self) -> str:
        return (
            f"{self.matmul_flops_per_s / 1e9:.0f} GFLOP/s in matrix products, "
            f"{self.bandwidth_bytes_per_s / 1e9:.1f} GB/s, "
            f"{self.exponentials_per_s / 1e9:.1f} billion exponentials/s"
        )


def _stream_bandwidth(numbers: int) -> float:
    a, b, c = (torch.full((numbers,), 0.5) for _ in range(3))
    frame = compare(
        {"copy": lambda: a.copy_(b), "triad": lambda: torch.add(b, c, alpha=0.5, out=a)}, repeats=9
    )
    copy, triad = frame.min_s
    return 4 * numbers * max(2 / copy, 3 / triad)


def _exponentials_per_s() -> float:
    x, y = np.linspace(-8, 0, 2**12, dtype=np.float32), np.empty((64, 2**12), np.float32)
    frame = compare({"exp": lambda: _exponentials(x, y)}, repeats=9, min_block_seconds=0.01)
    return y.size / frame.min_s[0]


@kernel
def _exponentials(x, y):
    for i in numba.prange(y.shape[0]):
        row = y[i]
        for j in range(row.shape[0]):
            row[j] = exp(x[j])
