"""Rotary position encoding: each pair of channels is a complex number, turned by an angle
proportional to its position.

| here   | RoFormer (2104.09864)        | RetNet (2307.08621)                                      |
| ------ | ---------------------------- | -------------------------------------------------------- |
| theta  | theta_i = 10000^(-2(i-1)/d)  | theta, Eq. 3; the released code spaces it to 10000^-1    |
| turns  | R_m, Eq. 34                  | Theta_n = e^(i n theta), Eq. 5                           |

Pairs are neighbours (x_0 + i x_1, x_2 + i x_3, ...), as in both papers. Code that pairs x_j with
x_(j + d/2) (transformers' Llama) holds the same function with the rows of W_Q and W_K in another
order.
"""

from functools import lru_cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

CPU = torch.device("cpu")


@lru_cache
@torch.inference_mode(False)  # what is kept must serve training, too
def rotary_frequencies(
    dim: int, *, base: float = 10000.0, endpoint: bool = False, device: torch.device = CPU
) -> Float[Tensor, " pairs"]:
    """Radians per position of dim / 2 pairs, in float64, falling geometrically from 1 towards 1 /
    base.

    `endpoint` (RetNet's code) includes 1 / base itself. Raises ValueError for an odd dim.
    """
    if dim % 2:
        raise ValueError(f"dim must be even (channels are rotated in pairs), got {dim}")
    pairs = dim // 2
    return base ** -(
        torch.arange(pairs, device=device, dtype=torch.float64) / max(pairs - endpoint, 1)
    )


def rotary_turns(
    frequencies: Float[Tensor, " pairs"], position: int, length: int
) -> Complex[Tensor, "length pairs"]:
    """e^(i n theta) for positions n = position ... position + length - 1, complex128.

    Raises ValueError for a negative position.
    """
    if position < 0:
        raise ValueError(f"position must be >= 0, got {position}")
    n = torch.arange(position, position + length, device=frequencies.device, dtype=torch.float64)
    angles = (
        n[:, None] * frequencies
    )  # in float64: float32 would lose the low digits of the angle at large positions
    return torch.polar(torch.ones_like(angles), angles)


def xpos_scales(dim: int, base: float, position: int, length: int) -> Float[Tensor, "length pairs"]:
    """zeta_i^(n / base) for positions n = position ... position + length - 1, float64: queries are
    multiplied by it, keys divided, so that scores fade with the distance (xPos, 2212.10554,
    Algorithm 1, gamma = 0.4).

    Beyond some 60 times `base` the smallest leave the range of float32.
    """
    zeta = (torch.arange(0, dim, 2, dtype=torch.float64) / dim + 0.4) / 1.4
    n = torch.arange(position, position + length, dtype=torch.float64)
    return zeta ** (n[:, None] / base)


def rotate(
    x: Float[Tensor, "*batch dim"], turns: Complex[Tensor, "*#batch pairs"]
) -> Float[Tensor, "*batch dim"]:
    """Multiply each neighbouring pair of channels of x, read as a complex number, by its turn."""
    work = torch.promote_types(
        x.dtype, torch.float32
    )  # complex numbers of half precision do not exist on CPUs
    pairs = torch.view_as_complex(x.to(work).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns.to(pairs.dtype)).flatten(-2).to(x.dtype)
