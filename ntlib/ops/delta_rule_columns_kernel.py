"""The delta rule's recurrence, compiled: state and both gradients stay in the nearest cache.

Columns of the values do not meet each other, so one task is one head with LANES columns of its
state, (d_k, LANES): 16 KiB at d_k = 64. A token reads and writes this state once, four rows at a
time; the update, the output and the row that the next token will ask for, c_{t+1} = b_{t+1}^T S_t,
come from that single pass, five multiply-adds per entry. Without the fusion, b^T S would read the
state a second time. From memory every input is read once and every output written once.

Going backwards, the gradient G_t of S_t obeys a delta rule itself, with a and b exchanged, and k, v
and q, do:

    G_t = diag(w_{t+1}) G_{t+1} + b_{t+1} dc_{t+1}^T + q_t do_t^T
    dv_t = G_t^T k_t          dc_t = G_t^T a_t

so the same pass runs from the end to the start. The sums over value columns that the other
gradients need are in ntlib.ops.delta_rule_keys_kernel.
"""

import numpy as np
from numba import prange

from ntlib.ops.compiled import inlined, kernel

# Columns of a task. The compiler unrolls a loop over a constant number of columns and keeps the
# four rows' 20 factors in registers: 32 columns take twice as long per column.
LANES = 64


@inlined
def _pass(s, x, i, r):
    """Rows i ... i + 3 of s <- w s + a c + k v; to the rows o and d of r it adds q s and b s.

    s: four rows of the state; x: w, a, k, q, b of every row; r: c, v, o, d, one after the other.
    """
    w0, w1, w2, w3 = x[0, i], x[0, i + 1], x[0, i + 2], x[0, i + 3]
    a0, a1, a2, a3 = x[1, i], x[1, i + 1], x[1, i + 2], x[1, i + 3]
    k0, k1, k2, k3 = x[2, i], x[2, i + 1], x[2, i + 2], x[2, i + 3]
    q0, q1, q2, q3 = x[3, i], x[3, i + 1], x[3, i + 2], x[3, i + 3]
    b0, b1, b2, b3 = x[4, i], x[4, i + 1], x[4, i + 2], x[4, i + 3]
    for j in range(LANES):
        c, v = r[j], r[j + LANES]
        s0 = w0 * s[j] + a0 * c + k0 * v
        s1 = w1 * s[j + LANES] + a1 * c + k1 * v
        s2 = w2 * s[j + 2 * LANES] + a2 * c + k2 * v
        s3 = w3 * s[j + 3 * LANES] + a3 * c + k3 * v
        s[j], s[j + LANES], s[j + 2 * LANES], s[j + 3 * LANES] = s0, s1, s2, s3
        r[j + 2 * LANES] += q0 * s0 + q1 * s1 + q2 * s2 + q3 * s3
        r[j + 3 * LANES] += b0 * s0 + b1 * s1 + b2 * s2 + b3 * s3


@inlined
def _whole_pass(s, x, r, v, out, c_next):
    """One token; v, out and c_next are the columns of this task in memory."""
    for j in range(v.shape[0]):
        r[j + LANES] = v[j]
    for j in range(2 * LANES, 4 * LANES):
        r[j] = 0
    for group in range(s.shape[0]):
        _pass(s[group], x, 4 * group, r)
    for j in range(LANES):
        r[j] = r[j + 3 * LANES]
    for j in range(v.shape[0]):
        out[j] = r[j + 2 * LANES]
        c_next[j] = r[j]


@kernel
def forward(q, k, v, a, b, w, state, out, c, final, checkpoints, segment):
    """`c` gets c_t for t = 1 ... length + 1 (the last one is not used) and `checkpoints` the state
    before every segment, where they have room."""
    batch, length, heads, d_k = q.shape
    d_v = v.shape[3]
    blocks = (d_v + LANES - 1) // LANES
    for task in prange(batch * heads * blocks):
        n, h, start = task // (heads * blocks), task // blocks % heads, task % blocks * LANES
        end = min(start + LANES, d_v)
        s = np.zeros(((d_k + 3) // 4, 4 * LANES), q.dtype)  # rows of zeros fill the last four
        x, r = np.zeros((5, (d_k + 3) // 4 * 4), q.dtype), np.zeros(4 * LANES, q.dtype)
        rows = s.reshape(-1, LANES)
        for i in range(d_k):
            for j in range(start, end):
                rows[i, j - start] = state[n, h, i, j]
                r[j - start] += b[n, 0, h, i] * state[n, h, i, j]
        kept = c.shape[1] > 1
        if kept:
            c[n, 0, h, start:end] = r[: end - start]
        for t in range(length):
            if kept and t % segment == 0:
                for i in range(d_k):
                    checkpoints[n, t // segment, h, i, start:end] = rows[i, : end - start]
            w_t = w[n % w.shape[0], t % w.shape[1], h]
            a_t, k_t, q_t, b_t = a[n, t, h], k[n, t, h], q[n, t, h], b[n, min(t + 1, length - 1), h]
            for i in range(d_k):
                x[0, i], x[1, i], x[2, i], x[3, i], x[4, i] = w_t[i], a_t[i], k_t[i], q_t[i], b_t[i]
            c_next = c[n, t + 1 if kept else 0, h, start:end]
            _whole_pass(s, x, r, v[n, t, h, start:end], out[n, t, h, start:end], c_next)
        for i in range(d_k):
            final[n, h, i, start:end] = rows[i, : end - start]


@kernel
def value_gradients(q, k, a, b, w, d_out, d_final, dv, dc, d_state):
    batch, length, heads, d_k = q.shape
    d_v = d_out.shape[3]
    blocks = (d_v + LANES - 1) // LANES
    for task in prange(batch * heads * blocks):
        n, h, start = task // (heads * blocks), task // blocks % heads, task % blocks * LANES
        end = min(start + LANES, d_v)
        g = np.zeros(((d_k + 3) // 4, 4 * LANES), q.dtype)
        x, r = np.zeros((5, (d_k + 3) // 4 * 4), q.dtype), np.zeros(4 * LANES, q.dtype)
        rows = g.reshape(-1, LANES)
        for i in range(d_k):
            rows[i, : end - start] = d_final[n, h, i, start:end]
            x[0, i] = 1  # G of the last token: not decayed, nothing removed
        for t in range(length - 1, -1, -1):
            k_t, q_t, a_t = q[n, t, h], k[n, t, h], a[n, t, h]
            for i in range(d_k):
                x[2, i], x[3, i], x[4, i] = k_t[i], q_t[i], a_t[i]
            _whole_pass(
                g, x, r, d_out[n, t, h, start:end], dv[n, t, h, start:end], dc[n, t, h, start:end]
            )
            w_t, b_t = w[n % w.shape[0], t % w.shape[1], h], b[n, t, h]
            for i in range(d_k):
                x[0, i], x[1, i] = w_t[i], b_t[i]
        for i in range(d_k):
            for j in range(start, end):
                d_state[n, h, i, j] = x[0, i] * rows[i, j - start] + x[1, i] * r[j - start]
