"""Gradients of the delta rule with respect to what runs along the keys: q, k, a, b and the decay.

    dq_t = S_t do_t     db_t = S_{t-1} dc_t     dk_t = G_t v_t     da_t = G_t c_t
    dw_t = sum over value columns of G_t * S_{t-1}

With c_t = b_t^T S_{t-1} kept from the forward pass and dc_t from the backward one, rows of the
states no longer meet, so a task is one head with LANES keys, and keys are what is vectorised: every
sum above becomes multiply-adds of whole vectors. In this file a state lies transposed,
(d_v, LANES).

S runs forwards and G backwards, and the delta rule cannot be inverted. Hence segments, the last one
first: S is computed again from its checkpoint through the segment, each S_{t-1} kept (32 x 16
KiB at d_v = 64: the second-level cache), then G comes back through them. Eleven multiply-adds per
entry, one read and one write of every kept state. From memory everything is read and written once.
"""

import numpy as np
from numba import prange

from ntlib.ops.compiled import inlined, kernel

LANES = 64  # keys of a task, a constant for the compiler


@inlined
def _states(s, kept, x, i, r):
    """Columns i ... i + 3 of s <- w s + a c + k v, the old ones to `kept`; adds to dq and db.

    s: four value columns; x: c, v, do, dc of every column; r: w, a, k, b, q, dq, db, dk, da, dw.
    """
    c0, c1, c2, c3 = x[0, i], x[0, i + 1], x[0, i + 2], x[0, i + 3]
    v0, v1, v2, v3 = x[1, i], x[1, i + 1], x[1, i + 2], x[1, i + 3]
    o0, o1, o2, o3 = x[2, i], x[2, i + 1], x[2, i + 2], x[2, i + 3]
    e0, e1, e2, e3 = x[3, i], x[3, i + 1], x[3, i + 2], x[3, i + 3]
    for j in range(LANES):
        w, a, k = r[j], r[j + LANES], r[j + 2 * LANES]
        p0, p1, p2, p3 = s[j], s[j + LANES], s[j + 2 * LANES], s[j + 3 * LANES]
        kept[j], kept[j + LANES], kept[j + 2 * LANES], kept[j + 3 * LANES] = p0, p1, p2, p3
        s0 = w * p0 + a * c0 + k * v0
        s1 = w * p1 + a * c1 + k * v1
        s2 = w * p2 + a * c2 + k * v2
        s3 = w * p3 + a * c3 + k * v3
        s[j], s[j + LANES], s[j + 2 * LANES], s[j + 3 * LANES] = s0, s1, s2, s3
        r[j + 5 * LANES] += s0 * o0 + s1 * o1 + s2 * o2 + s3 * o3
        r[j + 6 * LANES] += p0 * e0 + p1 * e1 + p2 * e2 + p3 * e3


@inlined
def _gradients(g, kept, x, i, r):
    """Columns i ... i + 3 of g: the gradient of S_t, then of S_{t-1}; adds to dk, da and dw."""
    c0, c1, c2, c3 = x[0, i], x[0, i + 1], x[0, i + 2], x[0, i + 3]
    v0, v1, v2, v3 = x[1, i], x[1, i + 1], x[1, i + 2], x[1, i + 3]
    o0, o1, o2, o3 = x[2, i], x[2, i + 1], x[2, i + 2], x[2, i + 3]
    e0, e1, e2, e3 = x[3, i], x[3, i + 1], x[3, i + 2], x[3, i + 3]
    for j in range(LANES):
        w, b, q = r[j], r[j + 3 * LANES], r[j + 4 * LANES]
        p0, p1, p2, p3 = kept[j], kept[j + LANES], kept[j + 2 * LANES], kept[j + 3 * LANES]
        g0, g1 = g[j] + q * o0, g[j + LANES] + q * o1
        g2, g3 = g[j + 2 * LANES] + q * o2, g[j + 3 * LANES] + q * o3
        g[j], g[j + LANES] = w * g0 + b * e0, w * g1 + b * e1
        g[j + 2 * LANES], g[j + 3 * LANES] = w * g2 + b * e2, w * g3 + b * e3
        r[j + 7 * LANES] += g0 * v0 + g1 * v1 + g2 * v2 + g3 * v3
        r[j + 8 * LANES] += g0 * c0 + g1 * c1 + g2 * c2 + g3 * c3
        r[j + 9 * LANES] += g0 * p0 + g1 * p1 + g2 * p2 + g3 * p3


@inlined
def _load(x, columns, r, rows):
    """Factors of one token; sums start from zero."""
    c, v, do, dc = columns
    for j in range(v.shape[0]):
        x[0, j], x[1, j], x[2, j], x[3, j] = c[j], v[j], do[j], dc[j]
    w, a, k, b, q = rows
    for i in range(w.shape[0]):
        r[i], r[i + LANES], r[i + 2 * LANES] = w[i], a[i], k[i]
        r[i + 3 * LANES], r[i + 4 * LANES] = b[i], q[i]
    for i in range(5 * LANES, 10 * LANES):
        r[i] = 0


@kernel
def key_gradients(
    q, k, v, a, b, w, c, d_out, dc, d_final, checkpoints, dq, dk, da, db, dw, segment
):
    """Fill dq, dk, da, db and dw; dw is the gradient of the decay's logarithm."""
    batch, length, heads, d_k = q.shape
    d_v = v.shape[3]
    blocks = (d_k + LANES - 1) // LANES
    groups = (d_v + 3) // 4
    for task in prange(batch * heads * blocks):
        n, h, start = task // (heads * blocks), task // blocks % heads, task % blocks * LANES
        end = min(start + LANES, d_k)
        s, g = np.zeros((groups, 4 * LANES), q.dtype), np.zeros((groups, 4 * LANES), q.dtype)
        kept = np.zeros((segment, groups, 4 * LANES), q.dtype)
        x, r = np.zeros((4, 4 * groups), q.dtype), np.zeros(10 * LANES, q.dtype)
        s_columns, g_columns = s.reshape(-1, LANES), g.reshape(-1, LANES)
        for i in range(start, end):
            for j in range(d_v):
                g_columns[j, i - start] = d_final[n, h, i, j]
        for number in range(checkpoints.shape[1] - 1, -1, -1):
            for i in range(start, end):
                for j in range(d_v):
                    s_columns[j, i - start] = checkpoints[n, number, h, i, j]
            first, last = number * segment, min((number + 1) * segment, length)
            for turn in range(2 * (last - first)):  # through the segment and back
                forwards = turn < last - first
                t = first + turn if forwards else 2 * last - first - 1 - turn
                w_t = w[n % w.shape[0], t % w.shape[1], h, start:end]
                _load(
                    x,
                    (c[n, t, h], v[n, t, h], d_out[n, t, h], dc[n, t, h]),
                    r,
                    (
                        w_t,
                        a[n, t, h, start:end],
                        k[n, t, h, start:end],
                        b[n, t, h, start:end],
                        q[n, t, h, start:end],
                    ),
                )
                if forwards:
                    for group in range(groups):
                        _states(s[group], kept[t - first, group], x, 4 * group, r)
                    for i in range(start, end):
                        dq[n, t, h, i] = r[i - start + 5 * LANES]
                        db[n, t, h, i] = r[i - start + 6 * LANES]
                else:
                    for group in range(groups):
                        _gradients(g[group], kept[t - first, group], x, 4 * group, r)
                    for i in range(start, end):
                        dk[n, t, h, i] = r[i - start + 7 * LANES]
                        da[n, t, h, i] = r[i - start + 8 * LANES]
                        dw[n, t, h, i] = w_t[i - start] * r[i - start + 9 * LANES]
