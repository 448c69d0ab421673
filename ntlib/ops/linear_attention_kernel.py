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
import torch
from numba import prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntlib.ops.compiled import array, inlined, kernel
from ntlib.ops.linear_attention_backward_kernel import backward_kernel
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
    weights, whole = np.empty(CHUNK * CHUNK, q.dtype), np.empty(down * WIDTH, q.dtype)
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
        weights[t * CHUNK + t] += total


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
            weights[t * CHUNK + s] += total


def compiled(q, k, v, log_decay, bonus, state) -> tuple[Tensor, Tensor]:
    """The kernel on tensors of one dtype, float32 or float64; see linear_attention."""
    match log_decay.dim():
        case 1:
            log_decay = log_decay[None, :, None, None]
        case 2:
            log_decay = log_decay[None, :, None]
        case 3:
            log_decay = log_decay[..., None]
    return Compiled.apply(q, k, v, log_decay, bonus, state)


class Compiled(torch.autograd.Function):
    """q, k, v: (batch, heads, length, .); decay: 4 dimensions that broadcast to q's, no copies."""

    @staticmethod
    def forward(ctx, q, k, v, decay, bonus, state):
        batch, heads, length, d_k = q.shape
        d_v, tasks = v.shape[-1], batch * heads
        segments = -(-length // SEGMENT) if any(ctx.needs_input_grad) else 0
        out, kept = _like(v, v.shape), q.new_empty(tasks, segments, d_k, d_v)
        final = q.new_empty(batch, heads, d_k, d_v)
        sequences = [part for x in (q, k, v, decay) for part in _flat(x)]
        u = _rows(bonus, q)
        forward_kernel(
            *sequences, u, array(state).reshape(tasks, d_k, d_v), *_flat(out), array(kept),
            array(final).reshape(tasks, d_k, d_v), (heads, length, d_k, d_v),
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, decay, bonus, kept)
        return out, final

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out, d_final):
        q, k, v, decay, bonus, kept = ctx.saved_tensors
        batch, heads, length, d_k = q.shape
        d_v, tasks = v.shape[-1], batch * heads
        d_qkv = [_like(x, x.shape) for x in (q, k, v)]
        # a gradient of what all times or all sequences share is summed per task first
        times, channels = decay.shape[2:]
        d_decay = _like(decay, (batch, heads, times, channels)).zero_()
        d_bonus = q.new_zeros(batch, heads, 0 if bonus is None else d_k)
        d_state = q.new_empty(batch, heads, d_k, d_v)
        sequences = [part for x in (q, k, v, decay) for part in _flat(x)]
        backward_kernel(
            *sequences, _rows(bonus, q), array(kept), *_flat(d_out),
            array(d_final).reshape(tasks, d_k, d_v), (heads, length, d_k, d_v),
            *(part for x in (*d_qkv, d_decay) for part in _flat(x)),
            array(d_bonus).reshape(tasks, -1), array(d_state).reshape(tasks, d_k, d_v),
        )  # fmt: skip
        d_decay = d_decay.sum_to_size(decay.shape)
        return *d_qkv, d_decay, None if bonus is None else d_bonus.sum(0), d_state


def _like(x: Tensor, shape) -> Tensor:
    """Memory in the order (batch, length, heads, .), seen as (batch, heads, length, .)."""
    batch, heads, length, channels = shape
    return x.new_empty(batch, length, heads, channels).transpose(1, 2)


def _flat(x: Tensor) -> tuple[np.ndarray, tuple[int, ...]]:
    """The memory under a view as one array, and the view's strides, 0 along a size of 1; copies
    only where the last dimension is not contiguous."""
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    strides = tuple(s if n > 1 else 0 for n, s in zip(x.shape, x.stride(), strict=True))
    extent = 1 + sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True))
    return array(x.as_strided((extent,), (1,))), strides


def _rows(bonus: Tensor | None, like: Tensor) -> np.ndarray:
    return array(like.new_empty(0, 1) if bonus is None else bonus)
