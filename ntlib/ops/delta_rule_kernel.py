"""The delta rule's kernels as one differentiable function.

Three passes over the sequence, each described where it stands: `forward` and `value_gradients`
treat columns of the state side by side, `key_gradients` its rows. Kept for the backward pass are
the inputs, c_t = b_t^T S_{t-1} (as large as the values) and the state before every SEGMENT-th token
(at d_k = 64 twice as large as the values).
"""

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from ntlib.ops.compiled import array
from ntlib.ops.delta_rule_columns_kernel import forward, value_gradients
from ntlib.ops.delta_rule_keys_kernel import key_gradients

# Tokens between kept states: 16 take as long and need twice the memory.
SEGMENT = 32


class _DeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, a, b, log_decay, state):
        inputs = _inputs(q, k, v, a, b, log_decay, state)
        out, final, c, checkpoints = _run(*inputs, keep=True)
        ctx.save_for_backward(*inputs[:6], c, checkpoints)
        ctx.decay_shape = log_decay.shape
        return out, final

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out, d_final):
        q, k, v, a, b, w, c, checkpoints = (array(x) for x in ctx.saved_tensors)
        d_out, d_final = array(d_out.transpose(1, 2)), array(d_final)
        dv, dc, d_state = np.empty_like(v), np.empty_like(v), np.empty_like(d_final)
        value_gradients(q, k, a, b, w, d_out, d_final, dv, dc, d_state)
        dq, dk, da, db, dw = (np.empty_like(q) for _ in range(5))
        key_gradients(
            q, k, v, a, b, w, c, d_out, dc, d_final, checkpoints, dq, dk, da, db, dw, SEGMENT
        )
        dq, dk, dv, da, db, dw = (
            torch.from_numpy(x).transpose(1, 2) for x in (dq, dk, dv, da, db, dw)
        )
        return dq, dk, dv, da, db, dw.sum_to_size(ctx.decay_shape), torch.from_numpy(d_state)


def delta_rule_compiled(q, k, v, a, b, log_decay, state):
    """The arguments of ntlib.ops.delta_rule's forms, all float32 or all float64."""
    arguments = (q, k, v, a, b, log_decay, state)
    if torch.is_grad_enabled() and any(x.requires_grad for x in arguments):
        return _DeltaRule.apply(*arguments)
    return _run(*_inputs(*arguments), keep=False)[:2]


def _inputs(q, k, v, a, b, log_decay, state):
    """In memory (batch, length, heads, .), as mixers lay it out: then this copies nothing."""
    decay = log_decay.exp().expand(-1, q.shape[1], -1, q.shape[3])
    sequences = (x.transpose(1, 2).contiguous() for x in (q, k, v, a, b, decay))
    return (*sequences, state.contiguous())


def _run(q, k, v, a, b, w, state, keep):
    batch, length, heads, d_k = q.shape
    d_v = v.shape[3]
    out, final = torch.empty_like(v), torch.empty_like(state)
    c = v.new_empty(batch, length + 1 if keep else 1, heads, d_v)
    checkpoints = v.new_empty(batch, -(-length // SEGMENT) if keep else 0, heads, d_k, d_v)
    forward(*(array(x) for x in (q, k, v, a, b, w, state, out, c, final, checkpoints)), SEGMENT)
    return out.transpose(1, 2), final, c, checkpoints
