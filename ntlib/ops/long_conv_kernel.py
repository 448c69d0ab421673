"""Kernel of the long convolution: the recurrence of a diagonal system, forward and backward.

Lanes are channels: 16 of them side by side make one vector of AVX-512 (two of AVX2), so the sum
over states needs no sum across lanes. A task owns 16 channels of one sequence and goes through it
eight tokens at a time (long_conv_recurrence.py says how). Memory sees x and y once each, parameters
and state stay in cache; the tensor (batch, length, channels, states) never exists.

Backward: the forward pass has kept h at every 64th token (as many numbers as x has, for 32 complex
states). A segment is run again to find h before each of its groups of eight tokens; then each
group is walked backwards. Gradients of the parameters are summed per task, over the batch in torch.
"""

import numpy as np
import torch
from numba import prange
from torch.autograd.function import once_differentiable

from ntlib.ops.compiled import array, inlined, kernel
from ntlib.ops.long_conv_recurrence import LANES, complex_recurrence, get, put, real_recurrence

TOKENS = 8  # tokens at a visit of a state; measured: 4 is 1.2 times slower
SEGMENT = 64  # tokens between states kept for the backward pass

advance_complex, retreat_complex = complex_recurrence(TOKENS)
advance_complex_1, retreat_complex_1 = complex_recurrence(1)
advance_real, retreat_real = real_recurrence(TOKENS)
advance_real_1, retreat_real_1 = real_recurrence(1)


@inlined
def advance(p, h, xs, ys, count):
    """`count` tokens, eight at once where there are eight."""
    is_complex = h.shape[1] == 2 * LANES
    if count == TOKENS and is_complex:
        return advance_complex(p, h, xs, ys)
    if count == TOKENS:
        return advance_real(p, h, xs, ys)
    for j in range(count):
        one = slice(j * LANES, (j + 1) * LANES)
        if is_complex:
            advance_complex_1(p, h, xs[one], ys[one])
        else:
            advance_real_1(p, h, xs[one], ys[one])
    return None


@inlined
def retreat(p, h, xs, ys, dys, dh, dxs, dp, before, count):
    is_complex = h.shape[1] == 2 * LANES
    if count == TOKENS and is_complex:
        return retreat_complex(p, h, xs, dys, dh, dxs, dp, before)
    if count == TOKENS:
        return retreat_real(p, h, xs, dys, dh, dxs, dp, before)
    for j in range(count - 1, -1, -1):
        start, one = h.copy(), slice(j * LANES, (j + 1) * LANES)
        advance(p, start, xs, ys, j)
        if is_complex:
            retreat_complex_1(p, start, xs[one], dys[one], dh, dxs[one], dp, before)
        else:
            retreat_real_1(p, start, xs[one], dys[one], dh, dxs[one], dp, before)
    return None


@inlined
def forward_task(x, p, y, h, kept, lane):
    xs, ys = np.zeros(TOKENS * LANES, x.dtype), np.zeros(TOKENS * LANES, x.dtype)
    for t in range(0, x.shape[0], TOKENS):
        if t % SEGMENT == 0 and kept.shape[0] > 0:
            kept[t // SEGMENT] = h
        count = min(TOKENS, x.shape[0] - t)
        get(x, t, count, lane, xs)
        ys[:] = 0
        advance(p, h, xs, ys, count)
        put(ys, y, t, count, lane)


@kernel
def forward(x, params, y, state, kept):
    """x, y (batch, length, channels); params (blocks, states, parameters * LANES); state (batch,
    blocks, states, LANES or 2 LANES), moved from start to end; kept (batch, blocks, segments or 0,
    states, ...), the states at the segments' starts."""
    blocks = params.shape[0]
    for task in prange(x.shape[0] * blocks):
        i, k = task // blocks, task % blocks
        forward_task(x[i], params[k], y[i], state[i, k], kept[i, k], k * LANES)


@inlined
def backward_task(x, p, kept, dy, dx, dh, dp, lane):
    xs, ys = np.zeros(TOKENS * LANES, x.dtype), np.zeros(TOKENS * LANES, x.dtype)
    dxs, dys, before = np.zeros_like(xs), np.zeros_like(xs), np.zeros(2 * TOKENS * LANES, x.dtype)
    groups = SEGMENT // TOKENS
    starts = np.zeros((groups + 1, dh.shape[0], dh.shape[1]), x.dtype)
    for segment in range(kept.shape[0] - 1, -1, -1):
        first, end = segment * SEGMENT, min((segment + 1) * SEGMENT, x.shape[0])
        last = (end - 1 - first) // TOKENS
        starts[0] = kept[segment]
        for group in range(last):
            starts[group + 1] = starts[group]
            get(x, first + group * TOKENS, TOKENS, lane, xs)
            advance(p, starts[group + 1], xs, ys, TOKENS)
        for group in range(last, -1, -1):
            t = first + group * TOKENS
            count = min(TOKENS, end - t)
            get(x, t, count, lane, xs)
            get(dy, t, count, lane, dys)
            dxs[:] = 0
            retreat(p, starts[group], xs, ys, dys, dh, dxs, dp, before, count)
            put(dxs, dx, t, count, lane)


@kernel
def backward(x, params, kept, dy, dx, dstate, dparams):
    """dstate comes in as the gradient of the final state and leaves as that of the initial one;
    dparams (batch, blocks, ...) comes in as zeros."""
    blocks = params.shape[0]
    for task in prange(x.shape[0] * blocks):
        i, k = task // blocks, task % blocks
        backward_task(
            x[i], params[k], kept[i, k], dy[i], dx[i], dstate[i, k], dparams[i, k], k * LANES
        )


class Recurrence(torch.autograd.Function):
    """(x, packed parameters, packed state) -> y and the packed final state."""

    @staticmethod
    def forward(ctx, x, params, state):
        ctx.set_materialize_grads(False)
        y, final = torch.empty(x.shape, dtype=x.dtype), state.clone()
        keep = -(-x.shape[1] // SEGMENT) if any(ctx.needs_input_grad) else 0
        kept = x.new_empty(*state.shape[:2], keep, *state.shape[2:])
        forward(array(x), array(params), array(y), array(final), array(kept))
        ctx.save_for_backward(x, params, kept)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dfinal):
        x, params, kept = ctx.saved_tensors
        dy = torch.zeros_like(x) if dy is None else dy
        dx = torch.empty(x.shape, dtype=x.dtype)
        batch, blocks, _, *parts = kept.shape
        dstate = (
            x.new_zeros(batch, blocks, *parts)
            if dfinal is None
            else dfinal.clone(memory_format=torch.contiguous_format)
        )
        dparams = params.new_zeros(batch, *params.shape)
        arrays = (array(a) for a in (x, params, kept, dy, dx, dstate, dparams))
        backward(*arrays)
        return dx, dparams.sum(0), dstate
