"""One token of RWKV-7's time mix, compiled: all that lies between its matrix products.

In torch these are some 35 small operations, most of whose time is the call. Here a head's numbers
stay in the nearest cache; its state is read twice and written once, 16 KiB each at N = 64. No
threads: at batch 1 starting them would take longer than the work. The readable form is
ntlib.mixers.rwkv7, whose letters these are; inference only.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ntlib.ops.compiled import array, exp, inlined


@inlined
def _sigmoid(x):
    return 1 / (1 + exp(-x))


@inlined
def _step(r, w, k, v, a, gate, k_k, k_a, r_k, weight, bias, memory, c, bound, eps, after, y):
    """`after` gets the state, `y` what the output matrix multiplies."""
    batch, heads, size, _ = memory.shape
    held, read = np.empty(size, memory.dtype), np.empty(size, memory.dtype)
    for n in range(batch):
        for h in range(heads):
            first = h * size
            r_h, k_h, v_h = r[n, h], k[n, h], v[n, h]
            length, bonus = r.dtype.type(0), r.dtype.type(0)
            for i in range(size):
                length += (k_h[i] * k_k[first + i]) ** 2
            length = max(math.sqrt(length), 1e-12)
            held[:], read[:] = 0, 0
            for i in range(size):
                kappa, row = k_h[i] * k_k[first + i] / length, memory[n, h, i]
                for j in range(size):
                    held[j] += kappa * row[j]
            for i in range(size):
                rate = _sigmoid(a[n, h, i])
                removed = -c * rate * k_h[i] * k_k[first + i] / length
                decay = exp(-bound * _sigmoid(w[n, h, i]))
                written = k_h[i] * (1 + (rate - 1) * k_a[first + i])
                bonus += r_h[i] * written * r_k[h, i]
                old, new, asked = memory[n, h, i], after[n, h, i], r_h[i]
                for j in range(size):
                    s = decay * old[j] + removed * held[j] + written * v_h[j]
                    new[j] = s
                    read[j] += asked * s
            mean, variance = read.mean(), read.var()
            scale = 1 / math.sqrt(variance + eps)
            for j in range(size):
                normed = (read[j] - mean) * scale * weight[first + j] + bias[first + j]
                y[n, first + j] = (normed + bonus * v_h[j]) * gate[n, first + j]


def rwkv7_step(
    vectors: tuple[Tensor, ...], parameters: tuple[Tensor, ...], memory: Tensor, *constants: float
) -> tuple[Tensor, Tensor]:
    """Eq. (2) and (3) of ntlib.mixers.rwkv7 without W_o: (batch, d_model), and the state after.

    vectors: r, the decay's and the rate's logits, k, v (1), g, in the order r, w, k, v, a, g, each
    (batch, d_model); parameters: k_k, k_a, r_k and the norm's weight and bias; memory (batch,
    heads, N, N); constants: c, the bound of -log w, eps. All float32 or all float64.
    """
    after, y = torch.empty_like(memory), torch.empty_like(vectors[0])
    *five, gate = (array(x) for x in vectors)
    five = (x.reshape(memory.shape[:3]) for x in five)
    k_k, k_a, r_k, weight, bias = (array(x) for x in parameters)
    _step(
        *five, gate, k_k.reshape(-1), k_a.reshape(-1), r_k, weight, bias,
        array(memory), *constants, array(after), array(y),
    )  # fmt: skip
    return y, after
