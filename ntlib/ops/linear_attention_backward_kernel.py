"""The backward pass of the kernel for linear attention.

With S the state before a chunk, G the gradient of the one after it, d the gradient of o:

    P_ts = d_t . v_s (s <= t)            Z_t = S d_t            Y_s = G v_s

All gradients follow from these: that of read_t is S_{t-1} d_t, which is Z_t run through the
recurrence with P_ts k_s entering; that of log w_t is the row sums of dS_t * (w_t S_{t-1}), split
into what later outputs of the chunk see (Z again) and what G sees (Y). Nothing is subtracted and
nothing divided, so that gradients of strong decays are as exact as those of weak ones.

The states of a segment are recomputed from the one kept before it, transposed: then channels of k
lie along vectors in Z and Y. G is held both ways, for Y and for dv_s = G^T k_s. Memory: the states
of one segment, SEGMENT / CHUNK of them, per thread; the second cache holds them.
"""

import numpy as np
from numba import prange

from ntlib.ops.compiled import inlined, kernel
from ntlib.ops.linear_attention_chunk_gradients import (
    add_column_products,
    add_decay,
    own_reads_new,
    own_with_bonus,
    pair_products,
    through_outputs,
    through_state,
)
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
def backward_kernel(
    q, qs, k, ks, v, vs, decay, ds, bonus, kept, d_out, os, d_final, sizes,
    d_q, dqs, d_k, dks, d_v, dvs, d_decay, dds, d_bonus, d_state,
):  # fmt: skip
    """Arguments as forward_kernel's; d_decay starts from 0 and its stride along a shared dimension
    is 0; d_bonus is (tasks, d_k) and starts from 0."""
    for task in prange(len(d_state)):
        n, h = task // sizes[0], task % sizes[0]
        one_head(
            q[n * qs[0] + h * qs[1] :], k[n * ks[0] + h * ks[1] :], v[n * vs[0] + h * vs[1] :],
            decay[n * ds[0] + h * ds[1] :], d_out[n * os[0] + h * os[1] :],
            (qs[2], ks[2], vs[2], ds[2], ds[3], os[2]), bonus[h : h + 1], kept[task], d_final[task],
            d_q[n * dqs[0] + h * dqs[1] :], d_k[n * dks[0] + h * dks[1] :],
            d_v[n * dvs[0] + h * dvs[1] :], d_decay[n * dds[0] + h * dds[1] :],
            (dqs[2], dks[2], dvs[2], dds[2], dds[3]), d_bonus[task], d_state[task], sizes,
        )  # fmt: skip


@inlined
def one_head(
    q, k, v, decay, d_out, strides, bonus, kept, d_final,
    d_q, d_k, d_v, d_decay, d_strides, d_bonus, d_state, sizes,
):  # fmt: skip
    _, length, n_k, n_v = sizes
    q_step, k_step, v_step, decay_step, per_channel, out_step = strides
    dq_step, dk_step, dv_step, d_decay_step, d_per_channel = d_strides
    down, across = (n_k + WIDTH - 1) // WIDTH, (n_v + WIDTH - 1) // WIDTH
    size = down * across * SQUARE
    of_k = np.empty((9, down * BLOCK), q.dtype)
    w, query, keys, read, faded = of_k[0], of_k[1], of_k[2], of_k[3], of_k[4]
    z, y, dk, dw = of_k[5], of_k[6], of_k[7], of_k[8]
    of_v = np.empty((3, across * BLOCK), q.dtype)
    values, d, dv = of_v[0], of_v[1], of_v[2]
    grads = np.empty((2, size), q.dtype)
    g, g_turned = grads[0], grads[1]
    states = np.empty(SEGMENT // CHUNK * size, q.dtype)
    pairs, weights = np.empty(CHUNK * CHUNK, q.dtype), np.empty(BLOCK, q.dtype)
    later, both = np.empty(CHUNK * BLOCK, q.dtype), np.empty(WIDTH, q.dtype)
    whole, ones = np.empty(down * WIDTH, q.dtype), np.ones(WIDTH, q.dtype)
    load_state(g, d_final)
    load_state(g_turned, d_final.T)
    for t in range((length - 1) // CHUNK * CHUNK, -1, -CHUNK):
        first, tokens = t // SEGMENT * SEGMENT, min(CHUNK, length - t)
        if t + CHUNK >= length or (t + CHUNK) % SEGMENT == 0:
            load_state(states[:size], kept[first // SEGMENT].T)
            recompute(
                states, k[first * k_step :], v[first * v_step :], decay[first * decay_step :],
                strides, t - first, sizes, keys, values, w, faded, whole,
            )  # fmt: skip
        turned = states[(t - first) // CHUNK * size :]
        load(query, q, t * q_step, q_step, tokens, n_k)
        load(keys, k, t * k_step, k_step, tokens, n_k)
        load(values, v, t * v_step, v_step, tokens, n_v)
        load(d, d_out, t * out_step, out_step, tokens, n_v)
        load_decay(w, decay, t * decay_step, decay_step, per_channel, tokens, n_k)
        pair_products(pairs, d, values)
        z[:] = 0
        y[:] = 0
        dv[:] = 0
        weights[:] = 0
        for i in range(down):
            at = i * BLOCK
            both[:] = 0
            for j in range(across):
                tile = (j * down + i) * SQUARE
                add_product(z[at:], d[j * BLOCK :], turned[tile:], WIDTH)
                add_product(y[at:], values[j * BLOCK :], g_turned[tile:], WIDTH)
                add_column_products(both, turned[tile:], g_turned[tile:])
            a, b = keys[at:], w[at:]
            fade_keys(faded[at:], whole[i * WIDTH :], a, b)
            through_state(y[at:], both, a, b, later, dk[at:], dw[at:])
            for j in range(at, at + BLOCK):
                read[j] = query[j] if len(bonus) > 0 else w[j] * query[j]
            through_outputs(pairs, a, b, read[at:], z[at:], later, dk[at:], dw[at:], weights)
            if len(bonus) == 0:
                own_reads_new(pairs, query[at:], a, b, z[at:], dk[at:], dw[at:], weights)
            else:
                u, du = bonus[0, i * WIDTH :], d_bonus[i * WIDTH :]
                own_with_bonus(pairs, query[at:], a, u, z[at:], dk[at:], du, weights)
        for j in range(across):
            at = j * BLOCK
            for i in range(down):
                fresh, block = read[i * BLOCK :], whole[i * WIDTH :]
                tile = (i * across + j) * SQUARE
                add_product(dv[at:], faded[i * BLOCK :], g[tile:], WIDTH)
                advance(g[tile:], block, ones, fresh, d[at:])
                advance(g_turned[(j * down + i) * SQUARE :], ones, block, d[at:], fresh)
            add_product(dv[at:], weights, d[at:], CHUNK)
        store(d_q, t * dq_step, dq_step, tokens, n_k, z)
        store(d_k, t * dk_step, dk_step, tokens, n_k, dk)
        store(d_v, t * dv_step, dv_step, tokens, n_v, dv)
        add_decay(d_decay, t * d_decay_step, d_decay_step, d_per_channel, tokens, n_k, dw)
    store_state(d_state, g)


@inlined
def recompute(states, k, v, decay, strides, end, sizes, keys, values, w, faded, whole):
    """Transposed states before the chunks of a segment up to token `end`; the first one is there.
    The last five arrays are room to work in."""
    _, _, n_k, n_v = sizes
    _, k_step, v_step, decay_step, per_channel, _ = strides
    down, across = (n_k + WIDTH - 1) // WIDTH, (n_v + WIDTH - 1) // WIDTH
    size, ones = down * across * SQUARE, np.ones(WIDTH, k.dtype)
    for t in range(0, end, CHUNK):
        load(keys, k, t * k_step, k_step, CHUNK, n_k)
        load(values, v, t * v_step, v_step, CHUNK, n_v)
        load_decay(w, decay, t * decay_step, decay_step, per_channel, CHUNK, n_k)
        old = states[t // CHUNK * size :]
        new = old[size:]
        new[:size] = old[:size]
        for i in range(down):
            fade_keys(faded, whole, keys[i * BLOCK :], w[i * BLOCK :])
            for j in range(across):
                tile = new[(j * down + i) * SQUARE :]
                advance(tile, ones, whole, values[j * BLOCK :], faded)
