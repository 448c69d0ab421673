"""S4's systems: a diagonal matrix plus one of low rank (DPLR), in O(states) per step and per node.

    A = diag(poles) - p p*,   bilinear rule:  h_t = a h_{t-1} + b_bar u_t,   y_t = 2 Re(c . h_t) (1)

| here             | S4 (2111.00396)                                                          |
| ---------------- | ------------------------------------------------------------------------ |
| poles, p, b, c   | Lambda, P = Q, B, C of Theorem 1, in the basis where the normal part is  |
|                  | diagonal                                                                 |
| dt               | Delta                                                                    |
| c_tilde          | C-tilde = C (1 - A-bar^L), App. C.3; what the paper's layer learns       |
| dplr_kernel      | Algorithm 1: generating function, Woodbury, Cauchy, inverse FFT          |
| dplr_step        | the recurrence of App. C.2                                               |

Tensors hold one of every conjugate pair of states, so sums over states are 2 Re(...) or run over
both halves; `p p*` mixes the halves, and a is linear over the reals only. `rank` comes first in p:
1 for HiPPO-LegS, 2 for HiPPO-LegT.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ntlib.ops.compiled import kernels_serve
from ntlib.ops.dplr_backward_kernel import GeneratingFunction

# Nodes of the generating function taken at a time: bounds memory to this times (channels, states).
NODES_AT_ONCE = 2048


def dplr_kernel(
    dt: Float[Tensor, " channels"],
    poles: Complex[Tensor, "channels states"],
    p: Complex[Tensor, "rank channels states"],
    b: Complex[Tensor, "*batch channels states"],
    c_tilde: Complex[Tensor, "channels states"],
    length: int,
) -> Float[Tensor, "*batch channels length"]:
    """S4's Algorithm 1: K of the bilinear system of A = diag(poles) - p p*, of which one of every
    conjugate pair is given, from c_tilde = c (1 - a^length) (see `c_tilde_from_c`).

    The generating function sum_l K_l w^l at the roots of unity w_j = e^(-2 pi i j / length) is
    c_tilde (1 - a w)^-1 b = 2 / (1 + w) c_tilde (g - A)^-1 b with g = 2 / dt (1 - w) / (1 + w); the
    inverse of diagonal plus low rank by Woodbury's identity, its diagonal parts sums of Cauchy's
    kind, sum_n u_n v_n / (g - poles_n). An inverse FFT gives K.

    With theta = 2 pi j / length, cos = cos(theta / 2), sin = sin(theta / 2) numerator and
    denominator are multiplied by dt cos: 2 / (1 + w) / (g - pole) = dt e^(i theta / 2) /
    (2 i sin - dt cos pole). So w = -1, where g is infinite, is a node like any other.

    On a CPU the generating function is computed by a kernel.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    batch = b.shape[:-2]
    inputs = torch.cat([b.reshape(-1, *b.shape[-2:]), p])  # columns the inverse is applied to
    rows = torch.cat([c_tilde[None], p.conj()])
    weights = torch.einsum("rcn,icn->crin", rows, inputs)  # (channels, 1 + rank, inputs, states)
    half_angle = math.pi / length * torch.arange(length // 2 + 1, device=dt.device).double()
    fast = kernels_serve(dt, poles, weights)
    spectrum = (_compiled if fast else _by_blocks)(dt, poles, weights, half_angle, len(p))
    kernel = torch.fft.irfft(spectrum, n=length)
    return kernel.transpose(0, 1).reshape(*batch, *kernel.shape[::2])


def _compiled(dt, poles, weights, half_angle, rank):
    """The generating function by the kernel, (channels, inputs, nodes)."""
    work = torch.promote_types(dt.dtype, weights.dtype.to_real())
    dt, poles = dt.to(work), poles.to(work.to_complex())
    numerators = _numerators(poles, weights.to(poles.dtype).flatten(1, 2))
    return GeneratingFunction.apply(dt, poles, numerators, half_angle.cos(), half_angle.sin(), rank)


def _by_blocks(dt, poles, weights, half_angle, rank):
    """The generating function, (channels, inputs, nodes). The definition."""
    spectrum = []
    for angles in half_angle.split(NODES_AT_ONCE):
        arguments = (dt, poles, weights, angles, rank)
        many = len(half_angle) > NODES_AT_ONCE and torch.is_grad_enabled()
        spectrum.append(
            checkpoint(_generating_function, *arguments, use_reentrant=False)
            if many  # what the backward pass needs is computed again, block by block
            else _generating_function(*arguments)
        )
    return torch.cat(spectrum, dim=-1)


def _generating_function(dt, poles, weights, half_angle, rank):
    """Values at some nodes, (channels, inputs, nodes)."""
    cosine, sine = half_angle.cos().to(dt.dtype), half_angle.sin().to(dt.dtype)
    sums = _cauchy_sums(dt, poles, weights.flatten(1, 2), cosine, sine)
    sums = sums.unflatten(1, weights.shape[1:3])  # (channels, 1 + rank, inputs + rank, nodes)
    inputs = weights.shape[2] - rank
    # Cauchy sums with cos instead of e^(i theta / 2) are those with p* on the left
    low = cosine * sums[:, 1:]
    middle, right = low[:, :, inputs:], low[:, :, :inputs]
    if rank == 1:
        correction = right / (1 + middle)
    else:
        eye = torch.eye(rank, dtype=sums.dtype, device=dt.device)
        solved = torch.linalg.solve(eye + middle.permute(0, 3, 1, 2), right.permute(0, 3, 1, 2))
        correction = solved.permute(0, 2, 3, 1)  # (channels, rank, inputs, nodes)
    straight, bent = sums[:, 0, :inputs], sums[:, 0, inputs:]
    return torch.complex(cosine, sine) * (straight - (bent[:, :, None] * correction).sum(1))


def _cauchy_sums(dt, poles, v, cosine, sine):
    """sum_n dt v_n / (2 i sin - s pole_n) over both halves of the pairs, s = dt cos.

    The two of a pair have the sum 2 (2 i sin Re v - s Re(v conj(pole))) / quadratic with
    quadratic = (2 i sin - s pole) (2 i sin - s conj(pole)), so (channels, states, nodes) is only
    met by real numbers and a real matrix product.
    """
    s = dt[:, None, None] * cosine
    size = s * poles.abs()[..., None]
    real = (size - 2 * sine) * (size + 2 * sine)  # not a difference of squares, which would cancel
    imaginary = -4 * sine * s * poles.real[..., None]
    scale = dt[:, None, None] / (real * real + imaginary * imaginary)
    numerators = _numerators(poles, v)
    by_sine, by_cosine = torch.complex(
        numerators @ (real * scale), numerators @ (-imaginary * scale)
    ).chunk(2, dim=1)
    return torch.complex(torch.zeros_like(sine), 4 * sine) * by_sine - 2 * s * by_cosine


def _numerators(poles, v):
    return torch.cat([v.real, (v * poles.conj()[:, None]).real], dim=1)


def discretise_dplr(
    dt: Float[Tensor, " channels"],
    poles: Complex[Tensor, "channels states"],
    p: Complex[Tensor, "rank channels states"],
    b: Complex[Tensor, "channels states"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The bilinear rule for A = diag(poles) - p p* gives a matrix of the same kind:

        a = diag(d) - v q,   d = (1 + z/2) / (1 - z/2),  z = dt poles,   v = p / (1 - z/2),
        q = 2 (2 / dt + p* v)^-1 p* / (1 - z/2)

    Returns d (channels, states), v, q (rank, channels, states), b-bar (channels, states), for
    `dplr_step`.
    """
    inverse = 1 / (1 - dt[:, None] * poles / 2)
    v, left = p * inverse, p.conj() * inverse
    middle = 2 * torch.einsum("rcn,scn->crs", p.conj(), v).real
    middle = middle + torch.diag_embed((2 / dt)[:, None].expand(middle.shape[:2]))
    q = 2 * torch.linalg.solve(middle.to(p.dtype), left.transpose(0, 1)).transpose(0, 1)
    b_bar = dt[:, None] * (inverse * b - _low_rank(v, q / 2, b))
    return 2 * inverse - 1, v, q, b_bar


def dplr_step(
    system: tuple[Tensor, Tensor, Tensor, Tensor],
    u: Float[Tensor, "*batch channels"],
    h: Complex[Tensor, "*batch channels states"],
) -> Complex[Tensor, "*batch channels states"]:
    """h_t of (1) in O(states): the state holds one of every conjugate pair."""
    d, v, q, b = system
    return d * h - _low_rank(v, q, h) + b * u[..., None]


def _low_rank(v, q, h):
    """v q h, where the sum over states runs over both halves of the pairs."""
    return torch.einsum(
        "rcn,...rc->...cn", v, 2 * torch.einsum("rcn,...cn->...rc", q, h).real.to(v.dtype)
    )


def dplr_advance(
    system: tuple[Tensor, Tensor, Tensor, Tensor],
    u: Float[Tensor, "batch length channels"],
    h: Complex[Tensor, "batch channels states"],
    chunk_size: int = 64,
) -> Complex[Tensor, "batch channels states"]:
    """The state after a whole sequence: a^length h + sum_s a^(length - 1 - s) b u_s.

    Chunks' sums as matrix products with b, a b, a^2 b, ... (found by doubling), then one product
    with a^chunk_size per chunk; chunk_size must be a power of 2.
    """
    matrix, vector = dplr_dense(system)
    state, length = as_real(h).permute(1, 2, 0), u.shape[1]  # (channels, size, batch)
    while length % chunk_size:  # the first tokens, so that whole chunks remain
        size = 1 << ((length % chunk_size).bit_length() - 1)
        state = _advance_chunks(matrix, vector, u[:, :size], state, size)
        u, length = u[:, size:], length - size
    if length:
        state = _advance_chunks(matrix, vector, u, state, chunk_size)
    return torch.complex(*state.permute(2, 0, 1).chunk(2, dim=-1))


def _advance_chunks(matrix, vector, u, state, size):
    """`size` is a power of 2 that divides the length."""
    krylov, power = vector[..., None], matrix  # a^j b for j < width, and a^width
    for _ in range(size.bit_length() - 1):
        krylov = torch.cat([krylov, power @ krylov], dim=-1)
        power = power @ power
    batch, chunks = u.shape[0], u.shape[1] // size
    u = u.unflatten(1, (chunks, size)).permute(3, 2, 1, 0).flatten(2)  # (channels, size, chunks *)
    added = (krylov.flip(-1) @ u).unflatten(-1, (chunks, batch))
    for chunk in added.unbind(2):
        state = power @ state + chunk
    return state


def dplr_dense(
    system: tuple[Tensor, Tensor, Tensor, Tensor],
) -> tuple[Float[Tensor, "channels size size"], Float[Tensor, "channels size"]]:
    """The system of `discretise_dplr` as a real matrix and vector: size = 2 states, real parts of h
    first, then imaginary parts."""
    d, v, q, b = system
    channels, states = d.shape
    eye = torch.eye(states, dtype=d.dtype, device=d.device)
    basis = torch.cat([eye, 1j * eye])[:, None].expand(-1, channels, -1)
    columns = dplr_step((d, v, q, b), basis.real.new_zeros(2 * states, channels), basis)
    return as_real(columns).permute(1, 2, 0), as_real(b)


def c_tilde_from_c(
    system: tuple[Tensor, Tensor, Tensor, Tensor],
    c: Complex[Tensor, "channels states"],
    length: int,
) -> Complex[Tensor, "channels states"]:
    """c (1 - a^length), which makes a sum over all time one over `length` steps."""
    return _apply_row(c, dplr_dense(system)[0], length, -1)


def c_from_c_tilde(
    system: tuple[Tensor, Tensor, Tensor, Tensor],
    c_tilde: Complex[Tensor, "channels states"],
    length: int,
) -> Complex[Tensor, "channels states"]:
    """The inverse of `c_tilde_from_c`: needed by the recurrence."""
    a = torch.linalg.matrix_power(dplr_dense(system)[0], length)
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    row = torch.linalg.solve((eye - a).transpose(-1, -2), _as_row(c_tilde))
    return _from_row(row)


def double_c_tilde(
    system: tuple[Tensor, Tensor, Tensor, Tensor],
    c_tilde: Complex[Tensor, "channels states"],
    length: int,
) -> Complex[Tensor, "channels states"]:
    """c_tilde for twice the length: c (1 - a^2L) = c (1 - a^L) (1 + a^L)."""
    return _apply_row(c_tilde, dplr_dense(system)[0], length, 1)


def _apply_row(c, a, length, sign):
    row = _as_row(c)
    return _from_row(
        row
        + sign * (torch.linalg.matrix_power(a, length).transpose(-1, -2) @ row[..., None])[..., 0]
    )


def as_real(h: Complex[Tensor, "*batch states"]) -> Float[Tensor, "*batch size"]:
    return torch.cat([h.real, h.imag], dim=-1)


def _as_row(c):
    """2 Re(c . h) as a product with the real form of h."""
    return 2 * torch.cat([c.real, -c.imag], dim=-1)


def _from_row(row):
    real, imaginary = row.chunk(2, dim=-1)
    return torch.complex(real, -imaginary) / 2
