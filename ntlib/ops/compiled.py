"""How the operators' kernels are compiled and called, and the switch that turns all of them off.

A kernel is a plain loop in Python that numba compiles for this processor at its first call; the
machine code is cached on disk, so that a second process starts at once. A kernel stands in a file
`<operator>_kernel.py` beside its reference in torch, and tests hold it to that reference.

    with reference():          # every operator takes its readable form
        y, state = linear_attention(q, k, v)

What makes LLVM vectorise a kernel: take views of rows (`row = x[b, t]`) and loop over the whole of
a row; keep conditions out of the inner loop; no slice may alias another.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import numba
import numpy as np
import torch
from filelock import FileLock
from numba import types
from numba.extending import overload
from torch import Tensor

# Sums may be reordered and multiply-adds fused. NaN and infinity keep their meaning (numba's
# fastmath=True would drop it): a sequence that holds a NaN must not come out clean.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


def _sources() -> str:
    """A digest of every file that machine code may be made from."""
    package, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted([*package.glob("ops/*.py"), *package.glob("mixers/*_kernel.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


SOURCES = _sources()

# Up to here a kernel computes a mixer's step: torch's matrix products reuse weights for more.
MOST_SEQUENCES = 4

# NTLIB_REFERENCE=1 in the environment turns kernels off in every process.
_reference = ContextVar("reference", default=os.environ.get("NTLIB_REFERENCE", "") not in ("", "0"))


@contextmanager
def reference() -> Iterator[None]:
    """Inside this block no operator chooses a kernel by itself."""
    token = _reference.set(True)
    try:
        yield
    finally:
        _reference.reset(token)


def kernels_serve(*tensors: Tensor | None) -> bool:
    """Whether a kernel may be chosen: all tensors are on a CPU, `reference()` is not in force."""
    return not _reference.get() and all(x is None or x.device.type == "cpu" for x in tensors)


def step_serves(x: Tensor) -> bool:
    """Whether a kernel may compute a mixer's whole step for x, (batch, d_model): few sequences, no
    gradients, a precision that NumPy has."""
    if torch.is_grad_enabled() or x.shape[0] > MOST_SEQUENCES or not kernels_serve(x):
        return False
    return x.dtype in (torch.float32, torch.float64)


def kernel(function: Callable) -> Callable:
    """Compile at the first call, run `prange` loops on as many threads as torch, keep the machine
    code on disk."""
    compiled = cached(
        numba.njit(
            function, parallel=True, fastmath=FASTMATH, error_model="numpy", cache=True, nogil=True
        )
    )

    def call(*arguments):
        threads = torch.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        # where numba runs on OpenMP, its first call sets the number of threads of torch, too
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return compiled(*arguments)

    call.__name__, call.__doc__ = function.__name__, function.__doc__
    return call


def inlined(function: Callable) -> Callable:
    """Compile a helper that kernels call."""
    return cached(
        numba.njit(
            function, fastmath=FASTMATH, error_model="numpy", cache=True, inline="never", nogil=True
        )
    )


def cached(compiled):
    """Make the cache on disk forget machine code when any file it was made from has changed, and
    let one process at a time read or write it.

    numba itself looks at the function's own file only, so that a kernel would go on with old code
    of a helper in another file, without a word; and two processes that compile at the same time
    could name each other's code in the index.
    """
    file = compiled._cache._cache_file
    file._source_stamp = SOURCES
    file.load, file.save = _alone(file, file.load), _alone(file, file.save)
    return compiled


def _alone(file, method: Callable) -> Callable:
    def call(*arguments):
        with _lock(Path(file._index_path).parent):
            return method(*arguments)

    return call


@cache
def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "ntlib.lock")


def array(x: Tensor) -> np.ndarray:
    """The tensor's numbers without a copy, where it is contiguous; kernels are compiled for that
    layout alone."""
    return x.detach().resolve_conj().resolve_neg().contiguous().numpy()


def exp(x):
    """e^x inside a kernel, in the argument's precision; in float32 made of operations that
    vectorise.

    float32: relative error below 2e-7 for |x| <= 1 and below 1e-7 (1 + |x|) elsewhere; 0 below
    -87.3, where float32's normal numbers end, infinity above 88.7; NaN stays NaN.
    """
    raise NotImplementedError("for use inside kernels only")


@overload(exp, inline="never", jit_options={"fastmath": {"contract", "nsz"}})
def _exp(x):
    if x == types.float64:
        return lambda x: math.exp(x)
    if x == types.float32:
        return _exp_float32
    return None


def _exp_float32(x):
    # x = n ln 2 + r with |r| <= ln(2) / 2, so e^x = 2^n e^r; n goes into the exponent bits.
    # Beyond the range n is clamped and the result replaced at the end: no branch, all selects.
    clamped = min(max(x, np.float32(-87.3)), np.float32(88.7))
    n = np.floor(clamped * np.float32(1.44269504) + np.float32(0.5))
    # ln 2 in two parts, the first exact in few bits, so that n ln 2 is subtracted without rounding
    r = (clamped - n * np.float32(0.693359375)) - n * np.float32(-2.12194440e-4)
    # Taylor's e^r, its last coefficients moved so that the error over the interval is balanced
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    # 2^n as two factors, applied one after the other: 2^128 alone has no float32
    half = np.int32(n) >> np.int32(1)
    rest = np.int32(n) - half
    y = p * np.int32((half + np.int32(127)) << np.int32(23)).view(np.float32)
    y = y * np.int32((rest + np.int32(127)) << np.int32(23)).view(np.float32)
    y = np.float32(0.0) if x < np.float32(-87.3) else y
    y = np.float32(np.inf) if x > np.float32(88.7) else y
    return x if x != x else y
