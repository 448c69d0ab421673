"""One token of Mamba's mixer, compiled: what `step` computes, for few sequences, no gradients.

At batch 1 every weight is read once for two operations, so in torch the cost is that of calling
twenty small operations. Here one call does all, in four phases, as each needs all of the one
before: the input map with convolution and SiLU; x_proj, too small to share among threads; all that
belongs to a channel; the output map.
"""

import math

import numpy as np
from numba import prange

from ntlib.ops.compiled import exp, inlined, kernel

BLOCK = 64  # channels, or rows of a weight, that one piece of work computes


@inlined
def dot(row, x):
    total = x.dtype.type(0)
    for j in range(len(x)):
        total += row[j] * x[j]
    return total


@kernel
def mamba_step(x, conv, ssm, A_log, D, w_in, taps, bias, w_x, w_dt, b_dt, w_out, y):
    """Writes y; brings conv, (batch, d_conv - 1, channels), and ssm up to date in place."""
    batch, (channels, d_state), rank = len(x), A_log.shape, w_dt.shape[1]
    one, tail = x.dtype.type(1), conv.shape[1]
    u, gate = np.empty((batch, channels), x.dtype), np.empty((batch, channels), x.dtype)
    out, low = np.empty((batch, channels), x.dtype), np.empty((batch, len(w_x)), x.dtype)
    blocks = (channels + BLOCK - 1) // BLOCK
    for block in prange(blocks):
        for i in range(batch):
            for c in range(block * BLOCK, min(block * BLOCK + BLOCK, channels)):
                new = dot(w_in[c], x[i])
                total = bias[c] + taps[c, 0, tail] * new
                for j in range(tail):
                    total += taps[c, 0, j] * conv[i, j, c]
                for j in range(tail - 1):
                    conv[i, j, c] = conv[i, j + 1, c]
                if tail > 0:
                    conv[i, tail - 1, c] = new
                u[i, c] = total / (one + exp(-total))
                z = dot(w_in[channels + c], x[i])
                gate[i, c] = z / (one + exp(-z))
    for i in range(batch):
        for r in range(len(w_x)):
            low[i, r] = dot(w_x[r], u[i])
    for block in prange(blocks):
        first, end = block * BLOCK, min(block * BLOCK + BLOCK, channels)
        rates = A_log[first:end].copy().ravel()  # flat: one long loop, which vectorises
        decay, delta = np.empty_like(rates), np.empty(end - first, x.dtype)
        for k in range(len(rates)):
            rates[k] = exp(rates[k])
        for i in range(batch):
            B, C = low[i, rank : rank + d_state], low[i, rank + d_state :]
            for c in range(end - first):
                raw = b_dt[first + c] + dot(w_dt[first + c], low[i, :rank])
                delta[c] = max(raw, x.dtype.type(0)) + math.log1p(exp(-abs(raw)))
                for n in range(d_state):
                    decay[c * d_state + n] = -delta[c] * rates[c * d_state + n]
            for k in range(len(decay)):
                decay[k] = exp(decay[k])
            for c in range(end - first):
                h, e = ssm[i, first + c], decay[c * d_state : c * d_state + d_state]
                total, dx = D[first + c] * u[i, first + c], delta[c] * u[i, first + c]
                for n in range(d_state):
                    h_n = e[n] * h[n] + dx * B[n]
                    h[n] = h_n
                    total += h_n * C[n]
                out[i, first + c] = total * gate[i, first + c]
    for block in prange((y.shape[1] + BLOCK - 1) // BLOCK):
        for i in range(batch):
            for c in range(block * BLOCK, min(block * BLOCK + BLOCK, y.shape[1])):
                y[i, c] = dot(w_out[c], out[i])
