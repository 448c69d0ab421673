"""Kernel of the gradients of S4's generating function, and its autograd function.

Tasks as forward. 1 / quadratic is computed again: one division, where reading it would be memory as
large as (channels, states, nodes). The sums are read, (1 + rank) (inputs + rank) complex numbers
per node. Each state passes once over its gradients, 16 KB in the nearest cache for 4 columns, and
takes from them its numerators' gradients and that of 1 / quadratic, 4 multiply-adds per (column,
state, node). What a block gives to the parameters is summed over the blocks in torch.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numba import prange
from torch.autograd.function import once_differentiable

from ntlib.ops.compiled import array, inlined, kernel
from ntlib.ops.dplr_elimination import eliminate, eliminate_backward
from ntlib.ops.dplr_kernel import GROUP, NODES, forward, inverse_quadratic, node_rows


@inlined
def gradients_of_sums(cosine, sine, rows, sums, d_spectrum):
    """From a block's sums and gradients: those of the 2 columns sums of q, real parts first."""
    rank, count, factor = sums.shape[0] - 1, cosine.shape[0], np.empty_like(sums[0, 0])
    tables = np.empty(
        (rank, sums.shape[0], sums.shape[1], count), sums.dtype
    )  # before p_r is eliminated
    tables[rank - 1] = sums
    for r in range(rank - 1, 0, -1):
        tables[r - 1] = tables[r]
        eliminate(tables[r - 1], rows[5], r, factor)
    grad = np.zeros_like(sums)
    for i in range(d_spectrum.shape[0]):
        for j in range(count):
            grad[0, i, j] = complex(cosine[j], -sine[j]) * d_spectrum[i, j]
    for r in range(rank):
        eliminate_backward(tables[r], rows[5], r, factor, grad)
    columns, four_sines, twice_s = sums.shape[0] * sums.shape[1], rows[1], rows[2]
    d_totals = np.empty((2 * columns, 2 * count), rows.dtype)
    for k in range(columns):
        g, d_a, d_b = (
            grad[k // sums.shape[1], k % sums.shape[1]],
            d_totals[k],
            d_totals[columns + k],
        )
        for j in range(count):
            d_a[j], d_a[count + j] = four_sines[j] * g[j].imag, -four_sines[j] * g[j].real
            d_b[j], d_b[count + j] = -twice_s[j] * g[j].real, -twice_s[j] * g[j].imag
    return d_totals


@inlined
def gradients_of_state(numerators, n, rows, q, dq, d_totals, d_parameters):
    """d_parameters (2 columns + 2, states): of the numerators, and sums over nodes of s^2 dR and
    s sin dI, where dR + i dI is dt times the gradient of the quadratic, -conj(q)^2 dq."""
    columns, count = numerators.shape[0] // 2, rows.shape[1]
    dq[:] = 0
    for k in range(columns):
        by_sine, by_s = d_totals[k], d_totals[columns + k]
        a, b = numerators[k, n], numerators[columns + k, n]
        d_a, d_b = numerators.dtype.type(0), numerators.dtype.type(0)
        for j in range(2 * count):
            d_a += by_sine[j] * q[j]
            d_b += by_s[j] * q[j]
            dq[j] += a * by_sine[j] + b * by_s[j]
        d_parameters[k, n], d_parameters[columns + k, n] = d_a, d_b
    sines_s, squares = rows[3], rows[4]
    real, imaginary = numerators.dtype.type(0), numerators.dtype.type(0)
    for j in range(count):
        x, y, d_x, d_y = q[j], q[count + j], dq[j], dq[count + j]
        re, im = (x - y) * (x + y), (x + x) * y  # q^2
        real -= squares[j] * (re * d_x + im * d_y)
        imaginary += sines_s[j] * (im * d_x - re * d_y)
    d_parameters[2 * columns, n], d_parameters[2 * columns + 1, n] = real, imaginary


@kernel
def backward(dt, sizes, damping, numerators, cosine, sine, sums, d_spectrum, d_parameters):
    """Shapes as in `forward`; d_parameters (channels, blocks, 2 columns + 2, states)."""
    blocks = d_parameters.shape[1]
    for task in prange(dt.shape[0] * blocks):
        c, start = task // blocks, task % blocks * NODES
        cosines, sines = cosine[start : start + NODES], sine[start : start + NODES]
        end, rows = start + len(cosines), node_rows(dt[c], cosines, sines, numerators.dtype)
        given = sums[c, :, :, start:end].copy(), d_spectrum[c, :, start:end]
        d_totals = gradients_of_sums(cosines, sines, rows, *given)
        q, dq = np.empty_like(d_totals[0]), np.empty_like(d_totals[0])
        for n in range(d_parameters.shape[3]):
            inverse_quadratic(dt[c], sizes[c, n], damping[c, n], cosines, sines, rows, q)
            gradients_of_state(
                numerators[c], n, rows, q, dq, d_totals, d_parameters[c, task % blocks]
            )


class GeneratingFunction(torch.autograd.Function):
    """dt (channels), poles (channels, states), numerators (channels, 2 (1 + rank) (inputs + rank),
    states), of one precision; cosine, sine (nodes), float64 -> (channels, inputs, nodes)."""

    @staticmethod
    def forward(ctx, dt, poles, numerators, cosine, sine, rank):
        columns = numerators.shape[1] // 2 // (1 + rank)
        kept = len(cosine) if any(ctx.needs_input_grad) else 0  # for the backward pass
        numbers = dt.dtype.to_complex()
        sums = torch.empty(len(dt), 1 + rank, columns, kept, dtype=numbers)
        spectrum = torch.empty(len(dt), columns - rank, len(cosine), dtype=numbers)
        forward(*_given(dt, poles, numerators, cosine, sine), array(sums), array(spectrum))
        ctx.save_for_backward(dt, poles, numerators, cosine, sine, sums)
        return spectrum

    @staticmethod
    @once_differentiable
    def backward(ctx, d_spectrum):
        dt, poles, numerators, cosine, sine, sums = ctx.saved_tensors
        blocks, rows = -(-len(cosine) // NODES), numerators.shape[1]
        parameters = dt.new_empty(len(dt), blocks, rows + 2, poles.shape[1])
        given = _given(dt, poles, numerators, cosine, sine)
        backward(*given, array(sums), array(d_spectrum), array(parameters))
        parameters = parameters.sum(1, dtype=torch.float64)
        d_numerators, (real, imaginary) = parameters[:, :-2], parameters[:, -2:].unbind(1)
        d_poles = (2 * real * poles - 4 * imaginary) / dt[:, None]
        # dt stands in front of all, in front of Re(v conj(pole)), and with the poles in quadratic
        d_rows = (d_numerators * numerators).sum(-1)
        d_dt = d_rows.sum(-1) + d_rows[:, rows // 2 :].sum(-1)
        d_dt = (d_dt + (d_poles.conj() * poles).real.sum(-1)) / dt
        given = d_dt.to(dt.dtype), d_poles.to(poles.dtype), d_numerators.to(dt.dtype)
        return *given, None, None, None


def _given(dt, poles, numerators, cosine, sine):
    """Arrays; states that add nothing fill the last group."""
    sizes = dt[:, None].double() * poles.to(torch.complex128).abs()
    more = (0, -poles.shape[1] % GROUP)
    sizes, damping = F.pad(sizes, more, value=1), F.pad(-4 * poles.real, more, value=1)
    numerators = F.pad(numerators, more)
    return tuple(array(x) for x in (dt, sizes, damping, numerators, cosine, sine))
