"""The machine's two limits: multiply-adds per second and bytes per second.

An operation that does F floating-point operations and moves B bytes takes at least
``max(F / rate, B / bandwidth)`` seconds (Williams, Waterman, Patterson 2009, "Roofline"). Both
limits are measured, not looked up, so that predictions speak of the machine that runs the book.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ntlib.measuring.provenance import cpu_name

GEMM_SIZE = 1536
# 512 MiB of float32: beyond the last-level cache of any common processor.
STREAM_ROWS, STREAM_COLUMNS = 16384, 8192


@dataclass(frozen=True)
class Machine:
    """What a processor can do at best, in float32."""

    cpu: str
    threads: int
    matmul_flops_per_s: float
    """Floating-point operations per second in a large matrix product; a multiply-add is two."""
    bandwidth_bytes_per_s: float
    """Bytes per second when reading an array far larger than the caches."""

    @property
    def ridge(self) -> float:
        """FLOP per byte at which both limits bind; below it, memory decides."""
        return self.matmul_flops_per_s / self.bandwidth_bytes_per_s

    def seconds(self, flops: float, bytes: float) -> float:
        """Lower bound on the time of an operation that does ``flops`` and moves ``bytes``."""
        return max(flops / self.matmul_flops_per_s, bytes / self.bandwidth_bytes_per_s)

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.threads} threads: {self.matmul_flops_per_s / 1e9:.0f} GFLOP/s, "
            f"{self.bandwidth_bytes_per_s / 1e9:.1f} GB/s, ridge {self.ridge:.1f} FLOP/byte"
        )


def measure_machine(threads: int | None = None) -> Machine:
    """Measure both limits of this CPU in about two seconds (needs 512 MiB for a moment).

    threads: number of torch threads; None takes the number torch uses now.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    with _threads(threads or torch.get_num_threads()):
        return Machine(
            cpu=cpu_name(),
            threads=torch.get_num_threads(),
            matmul_flops_per_s=_matmul_rate(),
            bandwidth_bytes_per_s=_read_bandwidth(),
        )


def _matmul_rate() -> float:
    a = torch.full((GEMM_SIZE, GEMM_SIZE), 0.5)
    out = torch.empty_like(a)
    return 2 * GEMM_SIZE**3 / _best_seconds(lambda: torch.mm(a, a, out=out), budget_s=0.5)


def _read_bandwidth() -> float:
    """The faster of a matrix-vector product and a sum: both read each element once."""
    matrix = torch.full((STREAM_ROWS, STREAM_COLUMNS), 0.5)
    vector = torch.full((STREAM_COLUMNS,), 0.5)
    out = torch.empty(STREAM_ROWS)
    product = _best_seconds(lambda: torch.mv(matrix, vector, out=out), budget_s=0.3)
    total = _best_seconds(matrix.sum, budget_s=0.3)
    return matrix.nelement() * matrix.element_size() / min(product, total)


def _best_seconds(run: Callable[[], object], budget_s: float) -> float:
    """Shortest of the calls that fit into the budget, at least three, after one to warm up."""
    run()
    best, calls, end = float("inf"), 0, time.perf_counter() + budget_s
    while calls < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best, calls = min(best, time.perf_counter() - start), calls + 1
    return best


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
