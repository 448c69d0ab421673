"""Token shift and its mixtures, compiled, with the backward pass.

A task is a piece of a sequence: STRETCH tokens of all channels. Forward reads x once and writes
each mixture once; torch would read two arrays for every mixture and copy x to shift it. Backward
reads x and the mixtures' gradients once and writes x's: a token's gradient needs those of the next
token, which are met just before, since a stretch is walked from its end.
"""

import numpy as np
import torch
from numba import prange
from torch.autograd.function import once_differentiable

from ntlib.ops.compiled import array, inlined, kernel

STRETCH = 64


@inlined
def _interpolate(x, previous, weight, out):
    for c in range(len(x)):
        out[c] = x[c] + weight[c] * (previous[c] - x[c])


@inlined
def _add_product(out, a, b):
    for c in range(len(out)):
        out[c] += a[c] * b[c]


@inlined
def _add_rest(out, a, b):
    """out += a (1 - b)."""
    for c in range(len(out)):
        out[c] += a[c] - a[c] * b[c]


@kernel
def mix_forward(x, last, weight, outs):
    """Writes outs[n] = x + weight[n] (previous - x); weight (n, batch, length, width) or
    (n, 1, 1, width)."""
    batch, length, _ = x.shape
    stretches, own = (length + STRETCH - 1) // STRETCH, weight.shape[1:3] != (1, 1)
    for task in prange(batch * stretches):
        i, start = task // stretches, task % stretches * STRETCH
        for t in range(start, min(start + STRETCH, length)):
            previous = x[i, t - 1] if t > 0 else last[i]
            for n in range(len(outs)):
                w = weight[n, i, t] if own else weight[n, 0, 0]
                _interpolate(x[i, t], previous, w, outs[n][i, t])


@kernel
def mix_backward(x, last, weight, d_outs, d_x, d_last, d_weight):
    """Writes the gradients; of weights that all tokens share, a part for each task."""
    batch, length, width = x.shape
    stretches, own = (length + STRETCH - 1) // STRETCH, weight.shape[1:3] != (1, 1)
    for task in prange(batch * stretches):
        i, start = task // stretches, task % stretches * STRETCH
        end = min(start + STRETCH, length)
        # what the token after t passes on to t
        later, delta = np.zeros(width, x.dtype), np.empty(width, x.dtype)
        for n in range(len(d_outs)):
            if end < length:
                _add_product(
                    later, d_outs[n][i, end], weight[n, i, end] if own else weight[n, 0, 0]
                )
            if not own:
                d_weight[n, task, 0] = 0
        for t in range(end - 1, start - 1, -1):
            previous, d_x_t = x[i, t - 1] if t > 0 else last[i], d_x[i, t]
            for c in range(width):
                d_x_t[c], delta[c], later[c] = later[c], previous[c] - x[i, t, c], 0
            for n in range(len(d_outs)):
                g, w = d_outs[n][i, t], weight[n, i, t] if own else weight[n, 0, 0]
                d_w = d_weight[n, i, t] if own else d_weight[n, task, 0]
                if own:
                    d_w[:] = 0
                _add_rest(d_x_t, g, w)
                _add_product(later, g, w)
                _add_product(d_w, g, delta)
        if start == 0:
            d_last[i] = later


class CompiledMix(torch.autograd.Function):
    """The kernels as a function of tensors: x (batch, length, d), last (batch, d) and weight
    (n, batch, length, d) or (n, 1, 1, d) to n mixtures (batch, length, d)."""

    @staticmethod
    def forward(ctx, x, last, weight):
        ctx.save_for_backward(x, last, weight)
        outs = tuple(x.new_empty(x.shape) for _ in weight)
        mix_forward(array(x), array(last), array(weight), tuple(out.numpy() for out in outs))
        return outs

    @staticmethod
    @once_differentiable
    def backward(ctx, *d_outs):
        x, last, weight = ctx.saved_tensors
        d_x, d_last = x.new_empty(x.shape), last.new_empty(last.shape)
        shared, tasks = weight.shape[1:3] == (1, 1), x.shape[0] * -(-x.shape[1] // STRETCH)
        d_weight = weight.new_empty((len(weight), tasks, 1, x.shape[2]) if shared else weight.shape)
        mix_backward(
            *(array(x), array(last), array(weight), tuple(array(g) for g in d_outs)),
            *(g.numpy() for g in (d_x, d_last, d_weight)),
        )
        return d_x, d_last, d_weight.sum(1, keepdim=True) if shared else d_weight
