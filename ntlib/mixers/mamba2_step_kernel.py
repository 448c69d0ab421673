"""One token of Mamba-2, compiled; see rwkv_step_kernel for why.

Memory traffic: weights and state are read once, the state is written once. Three parallel parts:
rows of the input map with their convolution, heads, rows of the output map; between the last two
stands the norm, which needs all heads.
"""

import numpy as np
from numba import prange

from ntlib.mixers.rwkv_step_kernel import matvec
from ntlib.ops.compiled import exp, inlined, kernel

ROWS = 64  # rows of a weight that one piece of work multiplies


@kernel
def mamba2_step(
    u, w_in, taps, bias, dt_bias, a_log, skip, scale, eps, w_out, conv, ssm, new_conv, new_ssm, y
):  # fmt: skip
    """(1) of mamba2 for `u` (batch, d_model); writes new_conv, new_ssm and y."""
    batch, heads, d_state, size = ssm.shape
    inner, channels = heads * size, len(taps)
    rows, groups = inner + channels, (channels - heads * size) // (2 * d_state)
    mixed = np.empty((batch, len(w_in)), u.dtype)
    for block in prange((len(w_in) + ROWS - 1) // ROWS):
        first, end = block * ROWS, min(block * ROWS + ROWS, len(w_in))
        for i in range(batch):
            matvec(w_in[first:end], u[i], mixed[i, first:end])
            for row in range(max(first, inner), min(end, rows)):
                c = row - inner
                mixed[i, row] = convolved(mixed[i, row], taps[c], bias[c], conv[i], new_conv[i], c)
    out = np.empty((batch, inner), u.dtype)
    for head in prange(heads):
        shared = 2 * inner + head // (heads // groups) * d_state
        for i in range(batch):
            x = mixed[i, inner + head * size : inner + (head + 1) * size]
            delta = softplus(mixed[i, rows + head] + dt_bias[head])
            decay = exp(-exp(a_log[head]) * delta)
            z, o = mixed[i, head * size : (head + 1) * size], out[i, head * size :]
            for j in range(size):
                o[j] = skip[head] * x[j]
            for c in range(d_state):
                b, q = delta * mixed[i, shared + c], mixed[i, shared + groups * d_state + c]
                before, after = ssm[i, head, c], new_ssm[i, head, c]
                for j in range(size):
                    after[j] = decay * before[j] + b * x[j]
                    o[j] += q * after[j]
            for j in range(size):
                o[j] *= silu(z[j])
    width = inner // groups
    for i in range(batch):
        for g in range(groups):
            o, factor = out[i, g * width : (g + 1) * width], scale[g * width :]
            total = u.dtype.type(0)
            for j in range(width):
                total += o[j] * o[j]
            inverse = u.dtype.type(1) / np.sqrt(total / u.dtype.type(width) + u.dtype.type(eps))
            for j in range(width):
                o[j] *= inverse * factor[j]
    for block in prange((len(w_out) + ROWS - 1) // ROWS):
        first, end = block * ROWS, min(block * ROWS + ROWS, len(w_out))
        for i in range(batch):
            matvec(w_out[first:end], out[i], y[i, first:end])


@inlined
def convolved(x, taps, bias, before, after, channel):
    """silu of the convolution at one channel; moves its window on by one token."""
    last = len(taps) - 1
    total = bias + taps[last] * x
    for t in range(last):
        total += taps[t] * before[t, channel]
        after[t, channel] = before[t + 1, channel] if t + 1 < last else x
    return silu(total)


@inlined
def silu(x):
    return x / (1 + exp(-x))


@inlined
def softplus(x):
    """log(1 + e^x) without overflow."""
    return max(x, 0) + np.log1p(exp(-abs(x)))
