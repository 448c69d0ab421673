"""Kernels of the selective scan: forward here, backward in selective_scan_backward_kernel.

A task is one sequence and a block of channels. Its states, (d_state, width), stay in the cache for
the whole sequence, and the innermost loop runs over channels, so that neither sums over the state
nor B_t, C_t cross vector lanes. Memory traffic: x, delta, gate read once, y written once, B and C
read once per block. (batch, length, channels, d_state) exists nowhere; where a backward pass will
follow, every EVERY-th state is kept, d_state / EVERY of the size of x.

The work is one exponential and two multiply-adds per cell (token, channel, state). So exponentials
are counted in powers of two: A arrives times log2(e), which saves the two multiply-adds that
reduce e^x to 2^n e^r.
"""

import math

import numpy as np
import torch
from numba import prange, types
from numba.extending import overload
from torch import Tensor

from ntlib.ops.compiled import array, exp, kernel

EVERY = 32  # tokens between kept states: the states of so many tokens fit into the L2 cache
WIDEST = 256  # channels of a task, fewer where the machine has more threads than tasks
LOG2_E = 1 / math.log(2)


def exp2(x):
    """2^x inside a kernel; float32: relative error below 2e-7, 2^-126 below there, NaN stays."""
    raise NotImplementedError("for use inside kernels only")


@overload(exp2, inline="never", jit_options={"fastmath": {"contract", "nsz"}})
def _exp2(x):
    if x == types.float64:
        return lambda x: math.exp(x * 0.6931471805599453)
    if x == types.float32:
        return _exp2_float32
    return None


def _exp2_float32(x):
    # selects in this order keep NaN; x = n + r with |r| <= 1/2, and n goes into the exponent bits
    x = np.float32(-126.0) if x < np.float32(-126.0) else x
    x = np.float32(126.0) if x > np.float32(126.0) else x
    n = np.floor(x + np.float32(0.5))
    r = x - n
    # 2^r, exactly 1 at 0, the largest relative error over the interval made small
    p = np.float32(1.326472731e-3)
    p = p * r + np.float32(9.671512991e-3)
    p = p * r + np.float32(5.550733581e-2)
    p = p * r + np.float32(2.402224243e-1)
    p = p * r + np.float32(6.931470037e-1)
    p = p * r + np.float32(1.0)
    bits = np.float32(p).view(np.int32) + np.int32(np.int32(n) << np.int32(23))
    return np.int32(bits).view(np.float32)


@kernel
def forward(x, delta, A2, B, C, D, gate, gated, state, width, y, final, kept):
    """A2 is A log2(e); kept, (batch, pieces, d_state, channels), receives the state before every
    EVERY-th token, or has no pieces."""
    batch, length, channels = x.shape
    d_state = A2.shape[1]
    blocks = (channels + width - 1) // width
    for task in prange(batch * blocks):
        b, first = task // blocks, task % blocks * width
        end = min(first + width, channels)
        w = end - first
        h, a = np.empty((d_state, w), x.dtype), np.empty((d_state, w), x.dtype)
        for n in range(d_state):
            for d in range(w):
                h[n, d] = state[b, first + d, n]
                a[n, d] = A2[first + d, n]
        dt, dx, out = np.empty(w, x.dtype), np.empty(w, x.dtype), np.empty(w, x.dtype)
        skip = D[first:end]
        for t in range(length):
            if t % EVERY == 0 and t // EVERY < kept.shape[1]:
                for n in range(d_state):
                    kept[b, t // EVERY, n, first:end] = h[n]
            x_t, delta_t = x[b, t, first:end], delta[b, t, first:end]
            for d in range(w):
                dt[d] = delta_t[d]
                dx[d] = delta_t[d] * x_t[d]
                out[d] = skip[d] * x_t[d]
            B_t, C_t = B[b, t], C[b, t]
            for n in range(d_state):
                h_n, a_n, B_n, C_n = h[n], a[n], B_t[n], C_t[n]
                for d in range(w):
                    h_nd = exp2(dt[d] * a_n[d]) * h_n[d] + dx[d] * B_n
                    h_n[d] = h_nd
                    out[d] += h_nd * C_n
            y_t, gate_t = y[b, t, first:end], gate[b, t, first:end]
            if gated:
                for d in range(w):
                    y_t[d] = out[d] * gate_t[d] / (1 + exp(-gate_t[d]))
            else:
                y_t[:] = out
        for n in range(d_state):
            for d in range(w):
                final[b, first + d, n] = h[n, d]


def run_forward(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, gate, state, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, final state and kept states (none of them unless `keep`)."""
    batch, length, channels = x.shape
    pieces = -(-length // EVERY) if keep else 0
    y, final = x.new_empty(x.shape), x.new_empty(state.shape)
    kept = x.new_empty(batch, pieces, A.shape[1], channels)
    gated = gate is not None
    inputs = (array(i) for i in (x, delta, A * LOG2_E, B, C, D, gate if gated else x))
    outputs = (y.numpy(), final.numpy(), kept.numpy())
    forward(*inputs, gated, array(state), block_width(batch, channels), *outputs)
    return y, final, kept


def block_width(batch: int, channels: int) -> int:
    """Channels per task, so that there is a task for every thread where channels allow it."""
    width = min(WIDEST, channels)
    while width > 16 and batch * -(-channels // width) < torch.get_num_threads():
        width = -(-width // 2)
    return width
