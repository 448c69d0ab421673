"""The selective scan's backward pass, written by hand, and the autograd function around both
kernels.

With g_t the gradient of h_t and dy_t that of y_t before the gate:

    g_t = exp(delta_t+1 A) g_t+1 + dy_t C_t       d(delta_t A) = g_t exp(delta_t A) h_t-1
    dB_t = sum_d g_t (delta_t x_t)                dC_t = sum_d dy_t h_t
    d(delta_t x_t) = sum_n g_t B_t

and d(delta_t A) goes to delta_t (times A) and to A (times delta_t).

The sequence is walked from its end in pieces of EVERY tokens. A piece starts from a kept state and
computes its states and exponentials again, forwards, into buffers of the task, (EVERY, d_state,
width) each, which the L2 cache holds; then g runs backwards through them. So the exponential, which
is most of the work, is computed twice in all. Memory traffic: x, delta, gate, dy read twice, kept
states once; their three gradients written once.
"""

import math

import numpy as np
import torch
from numba import prange
from torch.autograd.function import once_differentiable

from ntlib.ops.compiled import array, exp, kernel
from ntlib.ops.selective_scan_kernel import EVERY, LOG2_E, block_width, exp2, run_forward

LN_2 = math.log(2)


@kernel
def backward(x, delta, A2, B, C, D, gate, gated, kept, width, grad_y, grad_final, grads):
    """Writes grads: of x, delta, gate, A and D (per sequence), B and C (per block), the state."""
    grad_x, grad_delta, grad_gate, grad_A, grad_D, grad_B, grad_C, grad_state = grads
    batch, length, channels = x.shape
    d_state, zero = A2.shape[1], x.dtype.type(0)
    blocks = (channels + width - 1) // width
    for task in prange(batch * blocks):
        b, block = task // blocks, task % blocks
        first, end = block * width, min(block * width + width, channels)
        w = end - first
        a, g = np.empty((d_state, w), x.dtype), np.empty((d_state, w), x.dtype)
        da = np.zeros((d_state, w), x.dtype)
        h, e = np.empty((EVERY + 1, d_state, w), x.dtype), np.empty((EVERY, d_state, w), x.dtype)
        dt, dx = np.empty((EVERY, w), x.dtype), np.empty((EVERY, w), x.dtype)
        out, dout = np.empty((EVERY, w), x.dtype), np.empty((EVERY, w), x.dtype)
        ddx, ddt = np.empty(w, x.dtype), np.empty(w, x.dtype)
        skip, dskip = D[first:end], grad_D[b, first:end]
        dskip[:] = 0
        for n in range(d_state):
            for d in range(w):
                a[n, d] = A2[first + d, n]
                g[n, d] = grad_final[b, first + d, n]
        for piece in range(kept.shape[1] - 1, -1, -1):
            start = piece * EVERY
            steps = min(EVERY, length - start)
            h[0] = kept[b, piece, :, first:end]
            for j in range(steps):
                t = start + j
                x_t, delta_t = x[b, t, first:end], delta[b, t, first:end]
                gate_t, dy_t = gate[b, t, first:end], grad_y[b, t, first:end]
                dt_j, dx_j, out_j, dout_j = dt[j], dx[j], out[j], dout[j]
                for d in range(w):
                    dt_j[d] = delta_t[d]
                    dx_j[d] = delta_t[d] * x_t[d]
                    out_j[d] = skip[d] * x_t[d]
                    dout_j[d] = dy_t[d]
                if gated:
                    for d in range(w):
                        dout_j[d] *= gate_t[d] / (1 + exp(-gate_t[d]))
                B_t, C_t, dC_t = B[b, t], C[b, t], grad_C[block, b, t]
                for n in range(d_state):
                    before, after, e_n, a_n = h[j, n], h[j + 1, n], e[j, n], a[n]
                    B_n, C_n, dC_n = B_t[n], C_t[n], zero
                    for d in range(w):
                        e_nd = exp2(dt_j[d] * a_n[d])
                        h_nd = e_nd * before[d] + dx_j[d] * B_n
                        e_n[d] = e_nd
                        after[d] = h_nd
                        out_j[d] += h_nd * C_n
                        dC_n += dout_j[d] * h_nd
                    dC_t[n] = dC_n
            for j in range(steps - 1, -1, -1):
                t = start + j
                dt_j, dx_j, out_j, dout_j = dt[j], dx[j], out[j], dout[j]
                ddx[:] = 0
                ddt[:] = 0
                B_t, C_t, dB_t = B[b, t], C[b, t], grad_B[block, b, t]
                for n in range(d_state):
                    before, e_n, a_n, g_n, da_n = h[j, n], e[j, n], a[n], g[n], da[n]
                    B_n, C_n, dB_n = B_t[n], C_t[n], zero
                    for d in range(w):
                        g_nd = g_n[d] + dout_j[d] * C_n
                        dB_n += g_nd * dx_j[d]
                        ddx[d] += g_nd * B_n
                        g_nd = g_nd * e_n[d]
                        g_n[d] = g_nd
                        dlog = g_nd * before[d]
                        ddt[d] += dlog * a_n[d]
                        da_n[d] += dlog * dt_j[d]
                    dB_t[n] = dB_n
                x_t = x[b, t, first:end]
                dx_t, ddelta_t = grad_x[b, t, first:end], grad_delta[b, t, first:end]
                for d in range(w):
                    dx_t[d] = ddx[d] * dt_j[d] + dout_j[d] * skip[d]
                    ddelta_t[d] = ddx[d] * x_t[d] + ddt[d] * x.dtype.type(LN_2)
                    dskip[d] += dout_j[d] * x_t[d]
                if gated:
                    gate_t, dgate_t = gate[b, t, first:end], grad_gate[b, t, first:end]
                    dy_t = grad_y[b, t, first:end]
                    for d in range(w):
                        s = 1 / (1 + exp(-gate_t[d]))
                        dgate_t[d] = dy_t[d] * out_j[d] * s * (1 + gate_t[d] * (1 - s))
        for n in range(d_state):
            for d in range(w):
                grad_A[b, first + d, n] = da[n, d]
                grad_state[b, first + d, n] = g[n, d]


class SelectiveScan(torch.autograd.Function):
    """(x, delta, A, B, C, D, gate or None, state) -> y, final state."""

    @staticmethod
    def forward(ctx, x, delta, A, B, C, D, gate, state):
        y, final, kept = run_forward(x, delta, A, B, C, D, gate, state, keep=True)
        ctx.save_for_backward(x, delta, A, B, C, D, gate, kept)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_final):
        x, delta, A, B, C, D, gate, kept = ctx.saved_tensors
        batch, _, channels = x.shape
        width, gated = block_width(batch, channels), gate is not None
        per_token = [x.new_empty(x.shape if i < 2 or gated else (0, 0, 0)) for i in range(3)]
        per_sequence = [x.new_empty(batch, *shape) for shape in (A.shape, D.shape, A.shape)]
        per_block = [x.new_empty(-(-channels // width), *B.shape) for _ in range(2)]
        inputs = (array(i) for i in (x, delta, A * LOG2_E, B, C, D, gate if gated else x))
        grads = (*per_token, *per_sequence[:2], *per_block, per_sequence[2])
        arrays = tuple(grad.numpy() for grad in grads)
        given = (kept.numpy(), width, array(grad_y), array(grad_final))
        backward(*inputs, gated, *given, arrays)
        dx, ddelta, dgate, dA, dD, dB, dC, dstate = grads
        dgate = dgate if gated else None
        return dx, ddelta, dA.sum(0), dB.sum(0), dC.sum(0), dD.sum(0), dgate, dstate
