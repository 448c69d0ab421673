"""HiPPO's matrices, their normal-plus-low-rank form, and the diagonal initialisations of S4D.

| here                 | paper                                                                     |
| -------------------- | ------------------------------------------------------------------------- |
| hippo("legs")        | HiPPO (2008.07669), Theorem 2, without the 1 / t: S4 (2111.00396), Eq. 2  |
| hippo("legt")        | HiPPO, Theorem 1, halved as in S4's code: a window of length 2            |
| normal_plus_low_rank | S4, Theorem 1: A = V (diag(poles) - p p*) V*                              |
| diagonal_poles       | S4D (2206.11893), Sec. 4: Lin, Inv, LegS, Real                            |

Everything is float64. The eigenvectors of A itself are useless: their matrix has condition 7e20 at
64 states. A + P P^T is -1/2 plus a skew-symmetric matrix, hence normal, and its eigenvectors come
from a Hermitian solver as a unitary matrix.

Departures: S4's code keeps the pole with negative imaginary part of each pair, we the positive one
(the same real system). Eigenvectors are determined up to a phase, which LAPACK leaves to chance and
S4's code lives with by clipping Im b at 2; here the phase is fixed so that b is real, >= 0.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def hippo(
    measure: str, states: int
) -> tuple[Float[Tensor, "states states"], Float[Tensor, " states"]]:
    """A and B of x' = A x + B u, float64. measure is "legs" (all of the past, the recent stretched)
    or "legt" (a sliding window).

    Raises ValueError for another measure.
    """
    n = torch.arange(states, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    if measure == "legs":
        return -(root[:, None] * root).tril(-1) - torch.diag(n + 1), root
    if measure == "legt":
        sign = torch.where(n[None] <= n[:, None], 1.0, (-1.0) ** (n[:, None] - n[None]).abs())
        return -root[:, None] * root * sign / 2, root / 2
    raise ValueError(f"measure must be 'legs' or 'legt', got {measure!r}")


def low_rank_part(measure: str, states: int) -> Float[Tensor, "rank states"]:
    """P, real, such that A + P P^T is -1/2 (LegS) or 0 (LegT) plus a skew-symmetric matrix."""
    n = torch.arange(states, dtype=torch.float64)
    if measure == "legs":
        return (n + 0.5).sqrt()[None]
    if measure == "legt":
        even = (n % 2 == 0).to(n.dtype)
        return (n + 0.5).sqrt() * torch.stack([1 - even, even])
    raise ValueError(f"measure must be 'legs' or 'legt', got {measure!r}")


def normal_plus_low_rank(
    measure: str, states: int
) -> tuple[
    Complex[Tensor, " half"],
    Complex[Tensor, "rank half"],
    Complex[Tensor, " half"],
    Complex[Tensor, "states half"],
]:
    """poles, p, b, V (complex128) with A = V (diag(poles) - p p*) V*, b = V* B, of which the half
    with Im pole > 0, ascending, is returned; the other half is its conjugate.

    Raises ValueError if `states` is odd (one pole would be real) or the measure unknown.
    """
    if states < 2 or states % 2:
        raise ValueError(f"states must be even and at least 2, got {states}")
    A, B = hippo(measure, states)
    P = low_rank_part(measure, states)
    normal = A + P.T @ P
    imaginary, V = torch.linalg.eigh(-1j * (normal - normal.T) / 2)
    imaginary, V = imaginary[states // 2 :], V[:, states // 2 :]
    b = V.mH @ B.to(V.dtype)
    V = V * torch.where(b.abs() > 0, b / b.abs(), 1.0)
    poles = torch.complex(normal.diagonal().mean().expand_as(imaginary), imaginary)
    return poles, (V.mH @ P.T.to(V.dtype)).T, (V.mH @ B.to(V.dtype)), V


def diagonal_poles(init: str, states: int) -> Complex[Tensor, " half"]:
    """S4D's A_n (complex128), n = 0 ... states / 2 - 1, Im A >= 0:

    "lin" -1/2 + i pi n; "inv" -1/2 + i states / pi (states / (2n + 1) - 1); "legs" the poles of
    HiPPO-LegS's normal part; "real" -(n + 1).

    Raises ValueError for another init.
    """
    n = torch.arange(states // 2, dtype=torch.float64)
    half = torch.full_like(n, -0.5)
    if init == "lin":
        return torch.complex(half, math.pi * n)
    if init == "inv":
        return torch.complex(half, states / math.pi * (states / (2 * n + 1) - 1))
    if init == "legs":
        return normal_plus_low_rank("legs", states)[0]
    if init == "real":
        return torch.complex(-(n + 1), torch.zeros_like(n))
    raise ValueError(f"init must be 'lin', 'inv', 'legs' or 'real', got {init!r}")
