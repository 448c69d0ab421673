"""One token of RWKV's mixers, compiled: what `step` computes, for few sequences, no gradients.

At batch 1 a step reads every weight once and does little else, so that in torch the cost is that of
calling forty small operations. Here one call does all: the mixed inputs, then in parallel blocks of
rows everything that belongs to ROWS channels (or to a head), then the output map. Memory traffic is
that of the weights, from the second cache or beyond, for two operations on each number.
"""

from weakref import WeakKeyDictionary

import numpy as np
from numba import prange
from torch import Tensor, nn

from ntlib.ops.compiled import exp, inlined, kernel

ROWS = 64  # rows of a weight that one piece of work multiplies


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Their numbers, not copied where contiguous: kernels are compiled for that layout alone."""
    return [x.detach().contiguous().numpy() for x in tensors]


def paths(*names: str) -> tuple[tuple[str, str], ...]:
    """Names such as "time_decay" and "key.weight", cut into part and parameter."""
    return tuple(name.rpartition(".")[::2] for name in names)


# What `weights` found: addresses and arrays. An array keeps its memory alive, so that an address
# that is still the same is still the same memory.
_FOUND: WeakKeyDictionary[nn.Module, dict] = WeakKeyDictionary()


def weights(module: nn.Module, names: tuple[tuple[str, str], ...]) -> list[np.ndarray]:
    """The numbers of parameters, never copied, by `paths`. Made once for as long as the parameters
    stay where they are: for each of them torch needs a microsecond."""
    parts = {"": module} | module._modules
    found = [parts[part]._parameters[name] for part, name in names]
    addresses = [x.data_ptr() for x in found]
    kept = _FOUND.setdefault(module, {})
    if names not in kept or kept[names][0] != addresses:
        kept[names] = addresses, [x.detach().numpy() for x in found]
    return kept[names][1]


@inlined
def matvec(weight, x, out):
    """out = weight x."""
    for i in range(len(out)):
        row, total = weight[i], x.dtype.type(0)
        for j in range(len(x)):
            total += row[j] * x[j]
        out[i] = total


@inlined
def add_vecmat(x, weight, out):
    """out += x weight."""
    for i in range(len(x)):
        row, x_i = weight[i], x[i]
        for j in range(len(out)):
            out[j] += x_i * row[j]


@kernel
def rwkv4_step(x, last, a, b, p, m_r, m_k, m_v, w_r, w_k, w_v, w_o, time_decay, u, final, y):
    """(1) of rwkv4 with (3) of wkv; writes y and the final (3, batch, width)."""
    batch, width = x.shape
    one = x.dtype.type(1)
    mixed, gated = np.empty((3, batch, width), x.dtype), np.empty(x.shape, x.dtype)
    for i in range(batch):
        for c in range(width):
            delta = x[i, c] - last[i, c]
            mixed[0, i, c] = last[i, c] + m_r[0, 0, c] * delta
            mixed[1, i, c] = last[i, c] + m_k[0, 0, c] * delta
            mixed[2, i, c] = last[i, c] + m_v[0, 0, c] * delta
    blocks = (width + ROWS - 1) // ROWS
    for block in prange(blocks):
        rows = slice(block * ROWS, min(block * ROWS + ROWS, width))
        decay_rows, u_rows = time_decay[rows], u[rows]
        size = len(u_rows)
        r, k, v = np.empty(size, x.dtype), np.empty(size, x.dtype), np.empty(size, x.dtype)
        for i in range(batch):
            matvec(w_r[rows], mixed[0, i], r)
            matvec(w_k[rows], mixed[1, i], k)
            matvec(w_v[rows], mixed[2, i], v)
            a_i, b_i, p_i = a[i, rows].copy(), b[i, rows].copy(), p[i, rows].copy()
            for c in range(size):
                lead = u_rows[c] + k[c] - p_i[c]
                e = exp(-abs(lead))
                old, new = e if lead > 0 else one, one if lead > 0 else e
                r[c] = (old * a_i[c] + new * v[c]) / ((old * b_i[c] + new) * (one + exp(-r[c])))
                faded = p_i[c] - exp(decay_rows[c])
                lead = k[c] - faded
                e = exp(-abs(lead))
                old, new = e if lead > 0 else one, one if lead > 0 else e
                a_i[c] = old * a_i[c] + new * v[c]
                b_i[c] = old * b_i[c] + new
                p_i[c] = max(faded, k[c])
            gated[i, rows] = r
            final[0, i, rows], final[1, i, rows], final[2, i, rows] = a_i, b_i, p_i
    for block in prange(blocks):
        rows = slice(block * ROWS, min(block * ROWS + ROWS, width))
        for i in range(batch):
            matvec(w_o[rows], gated[i], y[i, rows])


@kernel
def channel_mix_step(start, towards, m_k, m_r, w_k, w_r, w_v, receptance, y):
    """(1) of rwkv_channel_mix; the mixtures m go from `start` to `towards`."""
    batch, width = y.shape
    one, zero = y.dtype.type(1), y.dtype.type(0)
    mixed, hidden = np.empty((2, batch, width), y.dtype), np.empty((batch, len(w_k)), y.dtype)
    for i in range(batch):
        for c in range(width):
            delta = towards[i, c] - start[i, c]
            mixed[0, i, c] = start[i, c] + m_k[0, 0, c] * delta
            mixed[1, i, c] = start[i, c] + m_r[0, 0, c] * delta
    for block in prange((len(w_k) + ROWS - 1) // ROWS):
        rows = slice(block * ROWS, min(block * ROWS + ROWS, len(w_k)))
        for i in range(batch):
            h = hidden[i, rows]
            matvec(w_k[rows], mixed[0, i], h)
            for c in range(len(h)):
                h[c] = max(h[c], zero) * max(h[c], zero)
    for block in prange((width + ROWS - 1) // ROWS):
        rows = slice(block * ROWS, min(block * ROWS + ROWS, width))
        for i in range(batch):
            out = y[i, rows]
            matvec(w_v[rows], hidden[i], out)
            if receptance:
                r = np.empty(len(out), y.dtype)
                matvec(w_r[rows], mixed[1, i], r)
                for c in range(len(out)):
                    out[c] /= one + exp(-r[c])
