"""The kernels of linear attention as one function for autograd, on tensors where they lie."""

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntlib.ops.compiled import array
from ntlib.ops.linear_attention_backward_kernel import backward_kernel
from ntlib.ops.linear_attention_kernel import forward_kernel
from ntlib.ops.linear_attention_tiles import SEGMENT


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
