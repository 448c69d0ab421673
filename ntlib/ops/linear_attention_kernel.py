"""Linear attention as a compiled kernel: chunks of eight tokens, exact for every decay.

A task is one head of one sequence. Its state stays in the first cache while the kernel walks over
chunks; per chunk it is read once and read and written once, that is every 8 tokens, so the kernel
is bound by multiply-adds: about 2 per token and cell of the state forward, 6 backward (the plain
recurrence takes 3 and 8, and touches the state for every token). Inputs are read once in each
direction, wherever they lie: only the last dimension must be contiguous, and a stride of 0 serves
heads that share keys. Nothing else of the length of the sequence is written but outputs and
gradients, and every SEGMENT tokens one state, from which the backward pass recomputes the others.

Inside a chunk, with w the decays, every term reads the state before its token:

    read_t = w_t q_t, or q_t with a bonus          o_t = S_{t-1}^T read_t + (q_t . (u k_t)) v_t
    S_{t-1} = diag(w_0 ... w_{t-1}) S + sum_{s<t} (w_{s+1} ... w_{t-1} k_s) v_s^T

Products of decays are multiplied out step by step, so that none exceeds 1 and nothing is divided:
this costs 8 / d_v of the work and underflows only to the right value, 0.
"""

import numpy as np
from numba import prange

from ntlib.ops.compiled import inlined, kernel
from ntlib.ops.linear_attention_tiles import (
    BLOCK,
    CHUNK,
    SEGMENT,
    SQUARE,
    WIDTH,
    add_product,
    advance,
    fade_keys,
    load,
    load_decay,
    load_state,
    store,
    store_state,
)


@kernel
def forward_kernel(q, qs, k, ks, v, vs, decay, ds, bonus, state, out, os, kept, final, sizes):
    """A sequence x comes as a flat array and its strides xs = (batch, head, token, channel); bonus
    is (heads, d_k) or without a row; kept is (tasks, segments, d_k, d_v) or without a segment."""
    for task in prange(len(final)):
        n, h = task // sizes[0], task % sizes[0]
        one_head(
            q[n * qs[0] + h * qs[1] :], k[n * ks[0] + h * ks[1] :], v[n * vs[0] + h * vs[1] :],
            decay[n * ds[0] + h * ds[1] :], (qs[2], ks[2], vs[2], ds[2], ds[3], os[2]),
            bonus[h : h + 1], state[task], out[n * os[0] + h * os[1] :], kept[task], final[task],
            sizes,
        )  # fmt: skip


@inlined
def one_head(q, k, v, decay, strides, bonus, state, out, kept, final, sizes):
    _, length, d_k, d_v = sizes
    q_step, k_step, v_step, decay_step, per_channel, out_step = strides
    down, across = (d_k + WIDTH - 1) // WIDTH, (d_v + WIDTH - 1) // WIDTH
    of_k = np.empty((4, down * BLOCK), q.dtype)
    read, keys, faded, w = of_k[0], of_k[1], of_k[2], of_k[3]
    of_v = np.empty((2, across * BLOCK), q.dtype)
    values, result = of_v[0], of_v[1]
    tiles = np.empty(down * across * SQUARE, q.dtype)
    weights, whole = np.empty(BLOCK, q.dtype), np.empty(down * WIDTH, q.dtype)
    ones = np.ones(WIDTH, q.dtype)
    load_state(tiles, state)
    for t in range(0, length, CHUNK):
        tokens = min(CHUNK, length - t)
        if t % SEGMENT == 0 and len(kept) > 0:
            store_state(kept[t // SEGMENT], tiles)
        load(read, q, t * q_step, q_step, tokens, d_k)
        load(keys, k, t * k_step, k_step, tokens, d_k)
        load(values, v, t * v_step, v_step, tokens, d_v)
        if t == 0 or decay_step > 0 or tokens < CHUNK:
            load_decay(w, decay, t * decay_step, decay_step, per_channel, tokens, d_k)
        weights[:] = 0
        result[:] = 0
        for i in range(down):
            at = i * BLOCK
            add_own_weights(weights, read[at:], keys[at:], bonus, i * WIDTH)
            if len(bonus) == 0:
                for j in range(at, at + BLOCK):
                    read[j] *= w[j]
            add_earlier_weights(weights, read[at:], keys[at:], w[at:])
            fade_keys(faded[at:], whole[i * WIDTH :], keys[at:], w[at:])
        for j in range(across):
            at = j * BLOCK
            for i in range(down):
                tile = tiles[(i * across + j) * SQUARE :]
                add_product(result[at:], read[i * BLOCK :], tile, WIDTH)
                advance(tile, whole[i * WIDTH :], ones, faded[i * BLOCK :], values[at:])
            add_product(result[at:], weights, values[at:], CHUNK)
        store(out, t * out_step, out_step, tokens, d_v, result)
    store_state(final, tiles)


@inlined
def add_own_weights(weights, q, k, bonus, first):
    """weights_tt += q_t . (u k_t), over one block of channels."""
    for t in range(CHUNK):
        row, key = q[t * WIDTH :], k[t * WIDTH :]
        total = weights.dtype.type(0)
        if len(bonus) == 0:
            for i in range(WIDTH):
                total += row[i] * key[i]
        else:
            u = bonus[0, first:]
            for i in range(min(WIDTH, len(u))):
                total += u[i] * row[i] * key[i]
        weights[t * WIDTH + t] += total


@inlined
def add_earlier_weights(weights, read, k, w):
    """weights_ts += read_t . (w_{s+1} ... w_{t-1} k_s), s < t; then read_t *= w_0 ... w_{t-1}."""
    for t in range(CHUNK):
        row = read[t * WIDTH :]
        for s in range(t - 1, -1, -1):
            key, decay = k[s * WIDTH :], w[s * WIDTH :]
            total = weights.dtype.type(0)
            for i in range(WIDTH):
                total += row[i] * key[i]
                row[i] *= decay[i]
            weights[t * WIDTH + s] += total
