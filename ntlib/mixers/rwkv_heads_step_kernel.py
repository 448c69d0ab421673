"""One token of RWKV-5 and 6, compiled; see rwkv_step_kernel.

Memory traffic: the weights and the state, each read once, the state written once.
"""

import numpy as np
from numba import prange

from ntlib.mixers.rwkv_step_kernel import add_vecmat, matvec
from ntlib.ops.compiled import exp, inlined, kernel


@kernel
def heads_step(mixed, decay, w_k, w_v, w_r, w_g, w_o, u, scale, shift, eps, memory, final, y):
    """(1) and (2) of rwkv5 from the inputs of k, v, r, g, `mixed` (4, batch, width), and from w,
    `decay` (batch, width); writes y and the final memory."""
    batch, heads, size, _ = memory.shape
    real = y.dtype.type
    zero, one, n, epsilon = real(0), real(1), real(size), real(eps)
    gated = np.empty(y.shape, y.dtype)
    for head in prange(heads):
        rows = slice(head * size, head * size + size)
        k, v, r = np.empty(size, y.dtype), np.empty(size, y.dtype), np.empty(size, y.dtype)
        g, out = np.empty(size, y.dtype), np.empty(size, y.dtype)
        factor, offset = scale[rows], shift[rows]
        for i in range(batch):
            matvec(w_k[rows], mixed[0, i], k)
            matvec(w_v[rows], mixed[1, i], v)
            matvec(w_r[rows], mixed[2, i], r)
            matvec(w_g[rows], mixed[3, i], g)
            out[:] = 0
            w = decay[i, rows]
            for c in range(size):
                before, after = memory[i, head, c], final[i, head, c]
                r_c, k_c, w_c, bonus = r[c], k[c], w[c], u[head, c] * k[c]
                for j in range(size):
                    out[j] += r_c * (before[j] + bonus * v[j])
                    after[j] = w_c * before[j] + k_c * v[j]
            total, squares = zero, zero
            for c in range(size):
                total += out[c]
            mean = total / n
            for c in range(size):
                squares += (out[c] - mean) * (out[c] - mean)
            inverse = one / np.sqrt(squares / n + epsilon)
            for c in range(size):
                normal = (out[c] - mean) * inverse * factor[c] + offset[c]
                g[c] = normal * g[c] / (one + exp(-g[c]))
            gated[i, rows] = g
    for head in prange(heads):
        rows = slice(head * size, head * size + size)
        for i in range(batch):
            matvec(w_o[rows], gated[i], y[i, rows])


@inlined
def rwkv5_inputs(x, last, m_k, m_v, m_r, m_g, time_decay, mixed, decay):
    """Of rwkv5: writes the inputs of k, v, r, g, (4, batch, width), and w, (batch, width)."""
    exponent = time_decay.ravel()
    for i in range(len(x)):
        delta = x[i] - last[i]
        mixed[0, i], mixed[1, i] = last[i] + m_k[0, 0] * delta, last[i] + m_v[0, 0] * delta
        mixed[2, i], mixed[3, i] = last[i] + m_r[0, 0] * delta, last[i] + m_g[0, 0] * delta
        for c in range(len(exponent)):
            decay[i, c] = exp(-exp(exponent[c]))


@inlined
def rwkv6_inputs(x, last, m_x, m_w, m_k, m_v, m_r, m_g, w_1, w_2, d, d_1, d_2, mixed, decay):
    """(1) and (2) of rwkv6: writes the same."""
    rank = w_2.shape[1]
    for i in range(len(x)):
        delta = last[i] - x[i]
        z, hidden = np.zeros(5 * rank, x.dtype), np.zeros(d_1.shape[1], x.dtype)
        add_vecmat(x[i] + delta * m_x[0, 0], w_1, z)
        z = np.tanh(z)
        mixture, exponent = m_w[0, 0].copy(), d[0, 0].copy()
        add_vecmat(z[:rank], w_2[0], mixture)
        add_vecmat(x[i] + delta * mixture, d_1, hidden)
        add_vecmat(np.tanh(hidden), d_2, exponent)
        for c in range(len(exponent)):
            decay[i, c] = exp(-exp(exponent[c]))
        for n, m in enumerate((m_k, m_v, m_r, m_g)):
            mixture[:] = m[0, 0]
            add_vecmat(z[(n + 1) * rank : (n + 2) * rank], w_2[n + 1], mixture)
            mixed[n, i] = x[i] + delta * mixture
