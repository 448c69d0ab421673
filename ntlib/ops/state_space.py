"""Linear time-invariant systems: discretisation, and the convolution kernels they are equal to.

    x'(t) = A x(t) + B u(t),  y = C x        discretised:  h_t = a h_{t-1} + b u_t,  y_t = C h_t (1)
    y = K * u   with   K_l = C a^l b                                                            (2)

| here               | S4 (2111.00396)     | S4D (2206.11893)   | Mega (2209.10655)           |
| ------------------ | ------------------- | ------------------ | --------------------------- |
| dt                 | Delta               | Delta              | (none)                      |
| A, B, C            | A, B, C, Eq. 1      | A, B, C, Eq. 1     |                             |
| a, b               | A-bar, B-bar, Eq. 3 | A-bar, B-bar       | 1 - alpha delta, alpha beta |
| kernel             | K-bar, Eq. 5        | K-bar              | K                           |
| vandermonde_kernel |                     | Vandermonde matrix | EMA's kernel, App.          |

S4's own matrix, diagonal plus low rank, is in dplr.py; the matrices of HiPPO are in hippo.py.
Real systems have poles in conjugate pairs. One of each pair is kept, and outputs are
2 Re sum_n c_n h_n; in (2) for diagonal systems that factor 2 belongs to the caller's c.

Kernels take the logarithm of a, since a^l = exp(l log a) then keeps its digits where a is near 1;
angles are multiplied out in float64, where float32 would be wrong by 1e-4 at length 16384.
"""

import math

import torch
from jaxtyping import Float, Inexact
from torch import Tensor


def discretise(
    A: Float[Tensor, "*batch states states"],
    B: Float[Tensor, "*batch states"],
    dt: Float[Tensor, "*#batch"] | float,
    method: str = "bilinear",
) -> tuple[Float[Tensor, "*batch states states"], Float[Tensor, "*batch states"]]:
    """a and b of (1) for a dense A. Methods, z = dt A:

    "euler" 1 + z, "backward_euler" (1 - z)^-1, "bilinear" (1 - z/2)^-1 (1 + z/2), S4's Eq. 3;
    "zoh", exact for a u that is constant between samples, e^z. A may be singular.

    Raises ValueError for an unknown method.
    """
    n = A.shape[-1]
    dt = torch.as_tensor(dt, dtype=A.dtype, device=A.device)
    z, input_step = dt[..., None, None] * A, dt[..., None] * B
    if method == "zoh":
        # exp([[z, dt B], [0, 0]]) = [[e^z, b], [0, 1]]: no inverse of A
        top = torch.cat([z, input_step[..., None]], dim=-1)
        both = _matrix_exp(torch.cat([top, torch.zeros_like(top[..., :1, :])], dim=-2))
        return both[..., :n, :n], both[..., :n, n]
    weights = {"euler": 0.0, "bilinear": 0.5, "backward_euler": 1.0}
    if method not in weights:
        raise ValueError(f"method must be 'zoh' or one of {sorted(weights)}, got {method!r}")
    eye = torch.eye(n, dtype=A.dtype, device=A.device)
    implicit, explicit = eye - weights[method] * z, eye + (1 - weights[method]) * z
    solved = torch.linalg.solve(implicit, torch.cat([explicit, input_step[..., None]], dim=-1))
    return solved[..., :n], solved[..., n]


def _matrix_exp(matrix: Tensor) -> Tensor:
    """Scaling, Taylor's series to degree 16, squaring. (torch.linalg.matrix_exp of torch 2.13 stops
    the series too early in float64: off by 2e-10 where norms are near 0.02.)"""
    norm = torch.linalg.matrix_norm(matrix.detach(), 1).max().item()
    squarings = max(0, math.ceil(math.log2(norm)) + 1) if norm > 0 else 0
    scaled = matrix / 2**squarings
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    total = eye
    for degree in range(16, 0, -1):
        total = eye + scaled @ total / degree
    for _ in range(squarings):
        total = total @ total
    return total


def discretise_diagonal(
    A: Inexact[Tensor, "channels states"],
    dt: Float[Tensor, " channels"],
    method: str = "zoh",
) -> tuple[Inexact[Tensor, "channels states"], Inexact[Tensor, "channels states"]]:
    """log a, and what B is multiplied by to give b, for a diagonal A.

    "zoh": log a = z = dt A and b = B (e^z - 1) / A. "bilinear": a = (1 + z/2) / (1 - z/2), so
    log a = 2 artanh(z/2), and b = B dt / (1 - z/2). A pole at 0 is allowed. A real A with
    z < -2 has a < 0 under "bilinear": pass it as complex.

    Raises ValueError for an unknown method.
    """
    z = dt[:, None] * A
    if method == "zoh":
        return z, dt[:, None] * _expm1_over(z)
    if method == "bilinear":
        return 2 * torch.atanh(z / 2), dt[:, None] / (1 - z / 2)
    raise ValueError(f"method must be 'zoh' or 'bilinear', got {method!r}")


def _expm1_over(z: Tensor) -> Tensor:
    """(e^z - 1) / z, 1 at z = 0, without cancellation: e^(z/2) sinh(z/2) / (z/2)."""
    half = z / 2
    small = half.abs() < 1e-2
    safe = torch.where(small, torch.ones_like(half), half)
    series = 1 + half**2 / 6 * (1 + half**2 / 20 * (1 + half**2 / 42))
    return half.exp() * torch.where(small, series, safe.sinh() / safe)


def vandermonde_kernel(
    log_a: Inexact[Tensor, "channels states"],
    weights: Inexact[Tensor, "*batch channels states"],
    length: int,
) -> Float[Tensor, "*batch channels length"]:
    """Re sum_n weights_n a_n^l for l = 0 ... length - 1: S4D's Eq. 7, with weights = c b.

    O(states length) multiply-adds per channel but O(states sqrt(length)) exponentials and memory:
    with l = i T + j the sum is a matrix product of weights_n a_n^(i T) and a_n^j.
    """
    inner = max(1, math.isqrt(length))
    outer = -(-length // inner)
    coarse = weights[..., None, :] * powers(log_a, outer, inner).transpose(-1, -2)
    kernel = real_product(coarse, powers(log_a, inner).to(coarse.dtype))
    return kernel.flatten(-2)[..., :length]


def powers(
    log_a: Inexact[Tensor, "channels states"], count: int, stride: int = 1, first: int = 0
) -> Inexact[Tensor, "channels states count"]:
    """a^(stride (first + i)) for i = 0 ... count - 1; exponents in float64."""
    i = torch.arange(first, first + count, device=log_a.device, dtype=torch.float64) * stride
    double = torch.promote_types(log_a.dtype, torch.float64)
    return (log_a.to(double)[..., None] * i).exp().to(log_a.dtype)


def real_product(left: Tensor, right: Tensor) -> Tensor:
    """Re(left @ right) as one real matrix product."""
    if not left.is_complex():
        return left @ right
    left = torch.cat([left.real, -left.imag], dim=-1)
    return left @ torch.cat([right.real, right.imag], dim=-2)


def ema_kernel(
    p: Float[Tensor, "channels states"],
    q: Float[Tensor, "channels states"],
    beta: Float[Tensor, "channels states"],
    eta: Float[Tensor, "channels states"],
    length: int,
) -> Float[Tensor, "channels length"]:
    """Mega's damped moving average, K_l = sum_n eta_n p_n beta_n q_n^l with q = 1 - p delta in
    (0, 1). The paper's letters: p is its alpha (its code's delta after a sigmoid)."""
    return vandermonde_kernel(q.log(), eta * p * beta, length)
