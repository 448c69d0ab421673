"""One token of multi-scale retention, compiled; see rwkv_step_kernel for why.

Memory traffic: the weights and the state, each read once, the state written once. A head's rows of
the stacked weight, its rotation, memory and norm are one piece of work, rows of the output map
another.
"""

import numpy as np
from numba import prange

from ntlib.mixers.rwkv_step_kernel import matvec
from ntlib.ops.compiled import exp, inlined, kernel

ROWS = 64  # rows of the output map that one piece of work multiplies


@kernel
def retention_step(x, qkvg, turns, row_scale, decay, eps, w_out, memory, new, y):
    """Retention with an RMSNorm of heads for x, (batch, d_model); `turns` are those of this token
    for q and k, (2, d_k / 2, real and imaginary part); writes the new memory and y."""
    batch, heads, d_k, size = memory.shape
    inner, keys = heads * size, heads * d_k
    gated = np.empty((batch, inner), x.dtype)
    for head in prange(heads):
        q, k = np.empty(d_k, x.dtype), np.empty(d_k, x.dtype)
        v, gate, out = np.empty(size, x.dtype), np.empty(size, x.dtype), np.empty(size, x.dtype)
        at = head * size
        for i in range(batch):
            matvec(qkvg[head * d_k :], x[i], q)
            matvec(qkvg[keys + head * d_k :], x[i], k)
            matvec(qkvg[2 * keys + at :], x[i], v)
            matvec(qkvg[2 * keys + inner + at :], x[i], gate)
            turn(q, turns[0])
            turn(k, turns[1])
            out[:] = 0
            for c in range(d_k):
                before, after, q_c, k_c = memory[i, head, c], new[i, head, c], q[c], k[c]
                for j in range(size):
                    after[j] = decay[head] * before[j] + k_c * v[j]
                    out[j] += q_c * after[j]
            total = x.dtype.type(0)
            for j in range(size):
                out[j] *= row_scale[head]
                total += out[j] * out[j]
            inverse = 1 / np.sqrt(total / size + eps)
            for j in range(size):
                gated[i, at + j] = inverse * out[j] * gate[j] / (1 + exp(-gate[j]))
    for block in prange((len(w_out) + ROWS - 1) // ROWS):
        first, end = block * ROWS, min(block * ROWS + ROWS, len(w_out))
        for i in range(batch):
            matvec(w_out[first:end], gated[i], y[i, first:end])


@inlined
def turn(x, turns):
    """Neighbouring pairs of x as complex numbers times their turns."""
    for p in range(len(turns)):
        a, b, real, imaginary = x[2 * p], x[2 * p + 1], turns[p, 0], turns[p, 1]
        x[2 * p], x[2 * p + 1] = a * real - b * imaginary, a * imaginary + b * real
