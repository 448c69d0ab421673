"""Kernels of the elementwise scan and the autograd function around them.

A task is one sequence and a block of channels: it carries the block's states through the sequence
and loops over channels innermost. The work is one multiply-add per number, so memory bounds it:
forward reads a and b and writes h; backward reads a, h and the gradient of h, writes those of a
and b, and computes nothing again. Where `a` is the same for all tokens, (1, 1, channels), it is
read from the cache.
"""

import numpy as np
import torch
from numba import prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntlib.ops.compiled import array, kernel

WIDEST = 256  # channels of a task: long enough rows for memory, enough tasks for the threads


@kernel
def forward(a, b, state, width, h):
    batch, length, channels = b.shape
    blocks = (channels + width - 1) // width
    fixed = a.shape[:2] != (batch, length)
    for task in prange(batch * blocks):
        i, first = task // blocks, task % blocks * width
        end = min(first + width, channels)
        carried = state[i, first:end].copy()
        for t in range(length):
            a_t = a[0, 0, first:end] if fixed else a[i, t, first:end]
            b_t, h_t = b[i, t, first:end], h[i, t, first:end]
            for d in range(end - first):
                h_td = a_t[d] * carried[d] + b_t[d]
                carried[d] = h_td
                h_t[d] = h_td


@kernel
def backward(a, h, state, grad_h, grad_final, width, grad_a, grad_b, grad_state):
    """g_t = dh_t + conj(a_t+1) g_t+1 is the gradient of b_t; that of a_t is g_t conj(h_t-1)."""
    batch, length, channels = h.shape
    blocks = (channels + width - 1) // width
    fixed = a.shape[:2] != (batch, length)
    for task in prange(batch * blocks):
        i, first = task // blocks, task % blocks * width
        end = min(first + width, channels)
        carried = grad_final[i, first:end].copy()
        da = np.zeros_like(carried)
        for t in range(length - 1, -1, -1):
            a_t = a[0, 0, first:end] if fixed else a[i, t, first:end]
            before = h[i, t - 1, first:end] if t > 0 else state[i, first:end]
            dh_t, db_t = grad_h[i, t, first:end], grad_b[i, t, first:end]
            if fixed:
                for d in range(end - first):
                    g = dh_t[d] + carried[d]
                    db_t[d] = g
                    da[d] += g * np.conj(before[d])
                    carried[d] = g * np.conj(a_t[d])
            else:
                da_t = grad_a[i, t, first:end]
                for d in range(end - first):
                    g = dh_t[d] + carried[d]
                    db_t[d] = g
                    da_t[d] = g * np.conj(before[d])
                    carried[d] = g * np.conj(a_t[d])
        if fixed:
            grad_a[i, 0, first:end] = da
        grad_state[i, first:end] = carried


def run_forward(a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """All h and the last; `a` is (batch, length, channels) or (1, 1, channels)."""
    h = b.new_empty(b.shape)
    forward(array(a), array(b), array(state), block_width(b), h.numpy())
    return h, h[:, -1].clone()


def block_width(b: Tensor) -> int:
    """Channels per task, so that there is a task for every thread where channels allow it."""
    batch, _, channels = b.shape
    width = min(WIDEST, channels)
    while width > 16 and batch * -(-channels // width) < torch.get_num_threads():
        width = -(-width // 2)
    return width


class Scan(torch.autograd.Function):
    """(a, b, state) -> all h, final h."""

    @staticmethod
    def forward(ctx, a, b, state):
        h, final = run_forward(a, b, state)
        ctx.save_for_backward(a, h, state)
        return h, final

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_h, grad_final):
        a, h, state = ctx.saved_tensors
        batch, channels = state.shape
        # what is fixed collects its gradient per sequence
        grad_a = h.new_empty(batch, h.shape[1] if a.shape[:2] == h.shape[:2] else 1, channels)
        grad_b, grad_state = h.new_empty(h.shape), h.new_empty(batch, channels)
        given = (array(i) for i in (a, h, state, grad_h, grad_final))
        backward(*given, block_width(h), grad_a.numpy(), grad_b.numpy(), grad_state.numpy())
        return grad_a.sum_to_size(a.shape), grad_b, grad_state
