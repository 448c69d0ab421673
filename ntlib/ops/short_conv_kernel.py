"""The short convolution in one pass over memory, with its backward.

Memory traffic: forward reads x once and writes y once (2 numbers per token and channel); backward
reads x and y's gradient and writes x's gradient (3). The rows a token looks back to are still in
the nearest cache. What SiLU was applied to is computed again in the backward, not kept: four
multiply-adds are cheaper than reading it.

A task is a block of tokens of one sequence: whole rows keep memory streaming. Neighbouring blocks
share width - 1 tokens; their part in the backward is computed by both.
"""

import numba
import numpy as np
import torch
from torch.autograd.function import once_differentiable

from ntlib.ops.compiled import array, exp, inlined, kernel

TOKENS_PER_TASK = 128  # enough tasks for two cores at batch 1
TOKENS_PER_CHUNK = 8  # of the backward: this many rows of gradients stay in the second-level cache


class ShortConv(torch.autograd.Function):
    """x (batch, length, channels), weight (channels, width), bias (channels,),
    state (batch, width - 1, channels), all of one dtype -> y like x."""

    @staticmethod
    def forward(ctx, x, weight, bias, state, silu):
        ctx.save_for_backward(x, weight, bias, state)
        ctx.silu = silu
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        _forward(*_given(x, weight, bias, state), silu, array(y))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        x, weight, _, state = ctx.saved_tensors
        batch, length, channels = x.shape
        tasks = batch * -(-length // TOKENS_PER_TASK)
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        grad_state = torch.empty_like(state, memory_format=torch.contiguous_format)
        # every task's own sum; the last row is the bias's
        sums = x.new_zeros(tasks, weight.shape[1] + 1, channels)
        results = (array(grad) for grad in (grad_x, sums, grad_state))
        _backward(*_given(*ctx.saved_tensors), ctx.silu, array(grad_y), *results)
        sums = sums.sum(0)
        return grad_x, sums[:-1].T, sums[-1], grad_state, None


def _given(x, weight, bias, state):
    """Arrays, the weights of a tap side by side, and a tuple of length width: its length is known
    to the compiler, which unrolls loops over it."""
    taps = (0,) * weight.shape[1]
    return array(x), array(weight.T), array(bias), array(state), taps


@kernel
def _forward(x, weight, bias, state, taps, silu, y):
    batch, length, _ = x.shape
    blocks = -(-length // TOKENS_PER_TASK)
    for task in numba.prange(batch * blocks):
        b, start = task // blocks, task % blocks * TOKENS_PER_TASK
        end = min(start + TOKENS_PER_TASK, length)
        if start == 0:
            head = _head(x[b], state[b])
            first = min(len(taps) - 1, length)
            _convolve(head, weight, bias, taps, silu, y[b, :first])
            start = first
        if start < end:
            _convolve(x[b, start - len(taps) + 1 : end], weight, bias, taps, silu, y[b, start:end])


@inlined
def _head(x, state):
    """The state and the first tokens in one array: what the first width - 1 tokens look back to."""
    tail = state.shape[0]
    head = np.zeros((2 * tail, x.shape[1]), x.dtype)
    head[:tail] = state
    rest = min(tail, x.shape[0])
    head[tail : tail + rest] = x[:rest]
    return head


@inlined
def _convolve(rows, weight, bias, taps, silu, y):
    """y[i] = bias + sum over taps j of weight[j] rows[i + j], then SiLU on request."""
    for i in range(y.shape[0]):
        out = y[i]
        for c in range(out.shape[0]):
            total = bias[c]
            for j in range(len(taps)):
                total += weight[j, c] * rows[i + j, c]
            out[c] = total
        if silu:
            one = out.dtype.type(1)
            for c in range(out.shape[0]):
                out[c] = out[c] / (one + exp(-out[c]))


@kernel
def _backward(x, weight, bias, state, taps, silu, grad_y, grad_x, grad_weight, grad_state):
    batch, length, channels = x.shape
    tail = len(taps) - 1
    blocks = -(-length // TOKENS_PER_TASK)
    backwards, zero = weight[::-1].copy(), np.zeros_like(bias)
    for task in numba.prange(batch * blocks):
        b, start = task // blocks, task % blocks * TOKENS_PER_TASK
        end = min(start + TOKENS_PER_TASK, length)
        head = _head(x[b], state[b])
        # gradients before SiLU of a chunk's tokens and of the `tail` tokens after it
        grads = np.zeros((TOKENS_PER_CHUNK + tail, channels), x.dtype)
        sums, ignored = grad_weight[task], np.zeros_like(grad_weight[task])
        given = x[b], head, weight, bias, grad_y[b], taps, silu
        _before_silu(*given, end, min(end + tail, length), grads, ignored)
        while end > start:  # chunks, the last one first
            chunk = (end - start - 1) // TOKENS_PER_CHUNK * TOKENS_PER_CHUNK + start
            grads[end - chunk : end - chunk + tail] = grads[:tail].copy()
            _before_silu(*given, chunk, end, grads, sums)
            _convolve(grads, backwards, zero, taps, False, grad_x[b, chunk:end])
            end = chunk
        if start == 0:
            head[:tail], head[tail:] = 0, grads[:tail]
            _convolve(head, backwards, zero, taps, False, grad_state[b])


@inlined
def _before_silu(x, head, weight, bias, grad_y, taps, silu, start, end, grads, grad_weight):
    """Gradients of what SiLU is applied to, for tokens start ... end - 1, and their sums."""
    one, tail = x.dtype.type(1), len(taps) - 1
    for t in range(start, end):
        rows = head[t : t + tail + 1] if t < tail else x[t - tail : t + 1]
        grad, out = grads[t - start], grad_y[t]
        for c in range(grad.shape[0]):
            g = out[c]
            if silu:
                total = bias[c]
                for j in range(len(taps)):
                    total += weight[j, c] * rows[j, c]
                gate = one / (one + exp(-total))
                g *= gate * (one + total * (one - gate))
            grad[c] = g
        # loops of their own: with more arrays in one, the compiler gives up vectorising it
        sums = grad_weight[tail + 1]
        for c in range(grad.shape[0]):
            sums[c] += grad[c]
        for j in range(len(taps)):
            row, sums = rows[j], grad_weight[j]
            for c in range(grad.shape[0]):
                sums[c] += grad[c] * row[c]
