"""Kernel of S4's generating function: Cauchy sums and the low-rank correction.

A task is a channel and a block of nodes. The numbers 1 / quadratic (see dplr.py) of a state and the
block's nodes live in the nearest cache while they enter the block's sums; the tensor (channels,
states, nodes) never exists. Memory sees the parameters, the spectrum once and, for the backward
pass, the sums, (1 + rank) (inputs + rank) complex numbers per node.

The quadratic's real part vanishes where the node meets the pole: size - 2 sin is a difference of
float64, so that float32 keeps its digits. All else is in the inputs' precision.
"""

import numpy as np
from numba import prange

from ntlib.ops.compiled import inlined, kernel
from ntlib.ops.dplr_elimination import eliminate

NODES = 256  # of a block: with 4 columns its sums are 16 KB in float32
GROUP = 4  # states between a load and a store of the sums


@inlined
def inverse_quadratic(dt, size, damping, cosine, sine, rows, q):
    """q = dt / quadratic at the block's nodes, real parts in front of imaginary ones."""
    count = cosine.shape[0]
    difference, four_sines, sines_s = rows[0], rows[1], rows[3]
    real, imaginary = q[:count], q[count:]
    for j in range(count):
        difference[j] = size * cosine[j] - 2 * sine[j]
    for j in range(count):
        re = difference[j] * (difference[j] + four_sines[j])
        im = damping * sines_s[j]
        scale = dt / (re * re + im * im)
        real[j] = re * scale
        imaginary[j] = -im * scale


@inlined
def node_rows(dt, cosine, sine, dtype):
    """Rows: room for a difference, 4 sin, 2 s, s sin, s^2, cos; s = dt cos."""
    rows = np.empty((6, cosine.shape[0]), dtype)
    for j in range(cosine.shape[0]):
        s = dt * cosine[j]
        rows[1, j], rows[2, j], rows[3, j] = 4 * sine[j], 2 * s, s * sine[j]
        rows[4, j], rows[5, j] = s * s, cosine[j]
    return rows


@inlined
def cauchy_sums(dt, sizes, damping, numerators, cosine, sine, rows, table):
    """4 i sin (sum_n Re v_n q_n) - 2 s (sum_n Re(v_n conj(pole_n)) q_n) for each column."""
    count, columns = cosine.shape[0], numerators.shape[0] // 2
    q = np.empty((GROUP, 2 * count), numerators.dtype)
    totals = np.zeros((2 * columns, 2 * count), numerators.dtype)
    for n in range(0, sizes.shape[0], GROUP):
        for i in range(GROUP):
            inverse_quadratic(dt, sizes[n + i], damping[n + i], cosine, sine, rows, q[i])
        q0, q1, q2, q3 = q[0], q[1], q[2], q[3]
        for m in range(2 * columns):
            total, v = totals[m], numerators[m]
            v0, v1, v2, v3 = v[n], v[n + 1], v[n + 2], v[n + 3]
            for j in range(2 * count):
                total[j] += v0 * q0[j] + v1 * q1[j] + v2 * q2[j] + v3 * q3[j]
    four_sines, twice_s = rows[1], rows[2]
    for k in range(columns):
        a, b = totals[k], totals[columns + k]
        out = table[k // table.shape[1], k % table.shape[1]]
        for j in range(count):
            real = -four_sines[j] * a[count + j] - twice_s[j] * b[j]
            out[j] = complex(real, four_sines[j] * a[j] - twice_s[j] * b[count + j])


@kernel
def forward(dt, sizes, damping, numerators, cosine, sine, sums, spectrum):
    """dt (channels); sizes = dt |poles|, float64, damping = -4 Re poles (channels, states);
    numerators (channels, 2 columns, states); cosine, sine (nodes), float64; spectrum (channels,
    inputs, nodes); sums (channels, 1 + rank, inputs + rank, nodes or none)."""
    blocks = -(-cosine.shape[0] // NODES)
    for task in prange(dt.shape[0] * blocks):
        c, start = task // blocks, task % blocks * NODES
        cosines, sines = cosine[start : start + NODES], sine[start : start + NODES]
        end, rows = start + len(cosines), node_rows(dt[c], cosines, sines, numerators.dtype)
        table = np.empty((sums.shape[1], sums.shape[2], end - start), sums.dtype)
        cauchy_sums(dt[c], sizes[c], damping[c], numerators[c], cosines, sines, rows, table)
        if sums.shape[3] > 0:
            sums[c, :, :, start:end] = table
        factor = np.empty(end - start, sums.dtype)
        for r in range(table.shape[0] - 2, -1, -1):
            eliminate(table, rows[5], r, factor)
        for i in range(spectrum.shape[1]):
            for j in range(end - start):
                spectrum[c, i, start + j] = complex(cosines[j], sines[j]) * table[0, i, j]
