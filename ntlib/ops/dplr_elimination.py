"""The low-rank part of S4's kernel inside the compiled one: Woodbury's identity by elimination.

A table holds the Cauchy sums of a block of nodes, (1 + rank, inputs + rank, nodes): rows c_tilde,
p*_1, p*_2; columns the inputs, p_1, p_2. Woodbury's c (g - L)^-1 b - c (g - L)^-1 p
(1 + p* (g - L)^-1 p)^-1 p* (g - L)^-1 b is what Gaussian elimination of the p's, last one first,
leaves in row c. 1 + p* (g - L)^-1 p has a positive Hermitian part, so no pivots are exchanged.
Work per node is a handful of complex products, against thousands of operations for its sums.
"""

import numpy as np

from ntlib.ops.compiled import inlined


@inlined
def pivot_of(table, cosine, r, factor):
    """cos / (1 + cos <p*_r, p_r>), and the column of p_r."""
    column = table.shape[1] - table.shape[0] + 1 + r
    pivot, one = table[1 + r, column], cosine.dtype.type(1)
    for j in range(cosine.shape[0]):
        real, imag = one + cosine[j] * pivot[j].real, cosine[j] * pivot[j].imag
        scale = cosine[j] / (real * real + imag * imag)
        factor[j] = complex(real * scale, -imag * scale)
    return column


@inlined
def eliminate(table, cosine, r, factor):
    """p_r leaves the entries above and to the left of its row and column."""
    column = pivot_of(table, cosine, r, factor)
    for i in range(1 + r):
        for k in range(column):
            entry, left, right = table[i, k], table[i, column], table[1 + r, k]
            for j in range(factor.shape[0]):
                entry[j] -= factor[j] * left[j] * right[j]


@inlined
def eliminate_backward(table, cosine, r, factor, grad):
    """`table` is the one before p_r was eliminated; the gradients of p_r's row and column come in
    as zeros, those of the entries above and to the left of them stay as they are."""
    column = pivot_of(table, cosine, r, factor)
    for i in range(1 + r):
        d_left, left = grad[i, column], table[i, column]
        for k in range(column):
            d_entry, d_right, right = grad[i, k], grad[1 + r, k], table[1 + r, k]
            for j in range(factor.shape[0]):
                d_left[j] -= np.conj(factor[j] * right[j]) * d_entry[j]
            for j in range(factor.shape[0]):
                d_right[j] -= np.conj(factor[j] * left[j]) * d_entry[j]
    d_pivot = grad[1 + r, column]
    for k in range(column):
        d_right, right = grad[1 + r, k], table[1 + r, k]
        for j in range(factor.shape[0]):
            d_pivot[j] -= np.conj(factor[j] * right[j]) * d_right[j]
