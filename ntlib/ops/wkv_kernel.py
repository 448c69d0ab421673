"""The recurrence of wkv.py, Eq. (3), compiled, and its backward pass.

A task is one sequence and WIDTH channels, whose state stays in the first cache. Of the two weights
e^(p - q) and e^(u + k - q), q the larger exponent, one is always 1: one exponential serves both.
Forward reads k and v once and writes the output once: 12 bytes a cell in float32. For backward it
also keeps the state (a, b, p) before every tile of TILE tokens.

Backward walks the tiles from the last to the first, runs (3) again in each and notes 9 numbers a
cell in a buffer of 36 KiB. So the way back needs no exponential, nothing of size (length, channels)
is kept, and memory sees three arrays read once and two gradients written once: 20 bytes a cell.
"""

import numpy as np
import torch
from numba import prange
from torch.autograd.function import once_differentiable

from ntlib.ops.compiled import array, exp, inlined, kernel

WIDTH = 64  # channels of a task
TILE = 16  # tokens between kept states


@kernel
def wkv_forward(k, v, log_decay, bonus, state, out, kept):
    """Writes `out`, the final over the initial `state` (3, batch, channels), and in `kept`
    (batch, tiles or 0, 3, channels) the state before every tile."""
    batch, length, channels = k.shape
    blocks = (channels + WIDTH - 1) // WIDTH
    one = k.dtype.type(1)
    for task in prange(batch * blocks):
        i, block = task // blocks, slice(task % blocks * WIDTH, task % blocks * WIDTH + WIDTH)
        w, u = log_decay[block], bonus[block]
        a, b, p = state[0, i, block].copy(), state[1, i, block].copy(), state[2, i, block].copy()
        for t in range(length):
            if t % TILE == 0 and kept.shape[1] > 0:
                tile = kept[i, t // TILE]
                tile[0, block], tile[1, block], tile[2, block] = a, b, p
            k_t, v_t, out_t = k[i, t, block], v[i, t, block], out[i, t, block]
            for c in range(len(a)):
                lead = u[c] + k_t[c] - p[c]
                e = exp(-abs(lead))
                old, new = e if lead > 0 else one, one if lead > 0 else e
                out_t[c] = (old * a[c] + new * v_t[c]) / (old * b[c] + new)
                faded = p[c] + w[c]
                lead = k_t[c] - faded
                e = exp(-abs(lead))
                old, new = e if lead > 0 else one, one if lead > 0 else e
                a[c] = old * a[c] + new * v_t[c]
                b[c] = old * b[c] + new
                p[c] = max(faded, k_t[c])
        state[0, i, block], state[1, i, block], state[2, i, block] = a, b, p


# Backward's local vectors lie in two flat buffers at these constant offsets: so LLVM sees that they
# do not overlap. For as many separate arrays it gives up and does not vectorise (7 times slower).
A, B, P, W, U, D_A, D_B, D_P, D_W, D_U = range(0, 10 * WIDTH, WIDTH)
V, OUT, D_NUM, OLD, NEW, KEEP, ADD, BEFORE_A, BEFORE_B = range(0, 9 * WIDTH, WIDTH)


@inlined
def _again(k, v, d_out, own, note):
    """One token of (3), and in `note` what the way back needs of it."""
    one = k.dtype.type(1)
    for c in range(len(k)):
        a, b, p = own[c + A], own[c + B], own[c + P]
        lead = own[c + U] + k[c] - p
        e = exp(-abs(lead))
        old, new = e if lead > 0 else one, one if lead > 0 else e
        inverse = one / (old * b + new)
        note[c + V], note[c + OUT] = v[c], (old * a + new * v[c]) * inverse
        note[c + D_NUM], note[c + OLD], note[c + NEW] = d_out[c] * inverse, old, new
        faded = p + own[c + W]
        lead = k[c] - faded
        e = exp(-abs(lead))
        keep, add = e if lead > 0 else one, one if lead > 0 else e
        note[c + KEEP], note[c + ADD], note[c + BEFORE_A], note[c + BEFORE_B] = keep, add, a, b
        own[c + A], own[c + B], own[c + P] = keep * a + add * v[c], keep * b + add, max(faded, k[c])


@inlined
def _back(note, own, d_k, d_v):
    """The same token on the way back: the adjoint of (3) for a fixed p, and what goes through p."""
    zero, one = d_k.dtype.type(0), d_k.dtype.type(1)
    for c in range(len(d_k)):
        d_a, d_b, d_p = own[c + D_A], own[c + D_B], own[c + D_P]
        v, out, keep, add = note[c + V], note[c + OUT], note[c + KEEP], note[c + ADD]
        now, past = note[c + NEW] * note[c + D_NUM], note[c + OLD] * note[c + D_NUM]
        leads = add == one
        d_k[c] = now * (v - out) + add * (v * d_a + d_b) + (d_p if leads else zero)
        d_v[c] = now + add * d_a
        d_p = zero if leads else d_p
        own[c + D_U] += now * (v - out)
        own[c + D_W] += keep * (note[c + BEFORE_A] * d_a + note[c + BEFORE_B] * d_b) + d_p
        own[c + D_A], own[c + D_B] = keep * d_a + past, keep * d_b - past * out
        own[c + D_P] = d_p


@kernel
def wkv_backward(k, v, log_decay, bonus, kept, d_out, d_state, d_k, d_v, d_decay, d_bonus):
    """Writes all gradients; log_decay's and bonus's by sequence, `d_state` over the final one's."""
    batch, length, channels = k.shape
    blocks = (channels + WIDTH - 1) // WIDTH
    for task in prange(batch * blocks):
        i, block = task // blocks, slice(task % blocks * WIDTH, task % blocks * WIDTH + WIDTH)
        width = len(log_decay[block])
        own, notes = np.zeros(10 * WIDTH, k.dtype), np.empty((TILE, 9 * WIDTH), k.dtype)
        own[W : W + width], own[U : U + width] = log_decay[block], bonus[block]
        for n, place in enumerate((D_A, D_B, D_P)):
            own[place : place + width] = d_state[n, i, block]
        for tile in range((length - 1) // TILE, -1, -1):
            start, end = tile * TILE, min(tile * TILE + TILE, length)
            for n, place in enumerate((A, B, P)):
                own[place : place + width] = kept[i, tile, n, block]
            for t in range(start, end):
                _again(k[i, t, block], v[i, t, block], d_out[i, t, block], own, notes[t - start])
            for t in range(end - 1, start - 1, -1):
                _back(notes[t - start], own, d_k[i, t, block], d_v[i, t, block])
        for n, place in enumerate((D_A, D_B, D_P)):
            d_state[n, i, block] = own[place : place + width]
        d_decay[i, block], d_bonus[i, block] = own[D_W : D_W + width], own[D_U : D_U + width]


class CompiledWKV(torch.autograd.Function):
    """The kernels as a function of tensors; the state is (3, batch, channels)."""

    @staticmethod
    def forward(ctx, k, v, log_decay, bonus, state):
        tiles = -(-k.shape[1] // TILE) if any(ctx.needs_input_grad) else 0
        inputs = tuple(array(x) for x in (k, v, log_decay, bonus))
        out, final = v.new_empty(v.shape), state.clone()
        kept = k.new_empty(k.shape[0], tiles, 3, k.shape[2])
        wkv_forward(*inputs, final.numpy(), out.numpy(), kept.numpy())
        ctx.save_for_backward(k, v, log_decay, bonus, state, final, kept)
        return out, final

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out, d_final):
        k, v, log_decay, bonus, state, final, kept = ctx.saved_tensors
        d_k, d_v = k.new_empty(k.shape), v.new_empty(v.shape)
        d_state = torch.empty_like(state).copy_(d_final)
        d_state[2] -= (d_final[:2] * final[:2]).sum(0)  # Eq. (4): through the maximum itself
        d_decay, d_bonus = k.new_empty(2, *state.shape[1:])
        wkv_backward(
            *(array(x) for x in (k, v, log_decay, bonus, kept, d_out)),
            *(x.numpy() for x in (d_state, d_k, d_v, d_decay, d_bonus)),
        )
        d_state[2] += (d_state[:2] * state[:2]).sum(0)
        return d_k, d_v, d_decay.sum(0), d_bonus.sum(0), d_state
