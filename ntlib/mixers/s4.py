"""S4: a state space per channel whose matrix is diagonal plus low rank, from HiPPO.

| here                | S4 (2111.00396)                                                            |
| ------------------- | -------------------------------------------------------------------------- |
| inv_dt              | log Delta, one per channel                                                 |
| A_real, A_imag      | Lambda = -exp(A_real) - i A_imag, Theorem 1 (Lambda there is diagonal)     |
| P                   | P = Q, Theorem 1: A = Lambda - P P*                                        |
| B                   | B                                                                          |
| C                   | C-tilde = C (1 - A-bar^l_kernel), Algorithm 1: what is learned             |
| D                   | D                                                                          |
| dplr_kernel         | Algorithm 1                                                                |
| dplr_step           | the recurrence, App. C.2, O(N)                                             |

Parameters are named as in the official repository (models/s4/s4.py, class S4Block with mode="dplr"
and without the prefix "layer."), which keeps the pole with negative imaginary part of each pair.
The block is y = GLU(W gelu(SSM(x) + D x)); dropout is left out.

Departures: the official code changes C and l_kernel in its first forward pass and doubles both when
it meets a longer sequence. Here reset_parameters sets them for `l_max` and a longer sequence uses a
C-tilde computed on the way; `lengthen` makes that permanent. Angles are exact (the official
file's powers of a complex64 root are 1e-4 off at 16384 nodes), and w = -1 is a node like any other.
B starts as HiPPO's; the official code clips Im B at 2, which, as phases are arbitrary, takes from
the fastest poles an amount that depends on the eigensolver.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ntlib.mixers.protocol import check_input
from ntlib.mixers.state_space import SampledSystem, StateSpaceMixer, refuse_a_state
from ntlib.ops.dplr import (
    c_from_c_tilde,
    c_tilde_from_c,
    discretise_dplr,
    double_c_tilde,
    dplr_advance,
    dplr_kernel,
    dplr_step,
)
from ntlib.ops.hippo import normal_plus_low_rank
from ntlib.ops.long_conv import fft_conv, two_sided


@dataclass(frozen=True)
class S4Config:
    """Defaults as in the official standalone module."""

    d_state: int = 64  # real size of a channel's state; half as many complex numbers are kept
    measure: str = "legs"  # HiPPO's; "legt" has a low-rank part of rank 2
    l_max: int = 1024  # the length that C-tilde is made for; others work, longer ones cost more
    dt_min: float = 0.001  # steps are drawn log-uniformly, as in S4D
    dt_max: float = 0.1
    n_ssm: int | None = None  # different (A, B), shared by d_model / n_ssm channels; None: d_model
    bidirectional: bool = False  # a second C reads the sequence from the right; no state then

    def build(self, d_model: int) -> "S4":
        return S4(d_model, self)


class S4Kernel(SampledSystem):
    """The systems' parameters, float32 at least, and the length that C belongs to."""

    def __init__(self, d_model: int, config: S4Config):
        super().__init__()
        self.config, self.n_ssm, half = config, config.n_ssm or d_model, config.d_state // 2
        if d_model % self.n_ssm:
            raise ValueError(f"n_ssm must divide d_model = {d_model}, got {self.n_ssm}")
        rank = len(normal_plus_low_rank(config.measure, config.d_state)[1])
        self.inv_dt = nn.Parameter(torch.empty(d_model, 1))
        self.A_real = nn.Parameter(torch.empty(self.n_ssm, half))
        self.A_imag = nn.Parameter(torch.empty(self.n_ssm, half))
        self.P = nn.Parameter(torch.empty(rank, self.n_ssm, half, 2))
        self.B = nn.Parameter(torch.empty(1, self.n_ssm, half, 2))
        self.C = nn.Parameter(torch.empty(1 + config.bidirectional, d_model, half, 2))
        self.register_buffer("l_kernel", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def reset_parameters(self, generator=None):
        config = self.config
        self.inv_dt.uniform_(math.log(config.dt_min), math.log(config.dt_max), generator=generator)
        poles, p, b, _ = normal_plus_low_rank(config.measure, config.d_state)
        # HiPPO-LegT's poles have real part 0, which no logarithm reaches
        self.A_real.copy_((-poles.real).clamp(min=1e-4).log().expand_as(self.A_real))
        self.A_imag.copy_(poles.imag.expand_as(self.A_imag))
        for target, values in ((self.P, p[:, None]), (self.B, b)):
            target.copy_(torch.view_as_real(values.conj().resolve_conj()).expand_as(target))
        self.C.normal_(std=0.5**0.5, generator=generator)
        self.set_c(torch.view_as_complex(self.C), config.l_max)

    def continuous(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """dt, poles, p, b of every channel."""
        dtype = dtype or self.inv_dt.dtype
        copies = len(self.inv_dt) // self.n_ssm
        poles = torch.complex(-self.A_real.to(dtype).exp(), -self.A_imag.to(dtype))
        p, b = (torch.view_as_complex(x.to(dtype)) for x in (self.P, self.B[0]))
        repeated = (x.repeat(*[1] * (x.dim() - 2), copies, 1) for x in (poles, p, b))
        return self.inv_dt.to(dtype).exp()[:, 0], *repeated

    @torch.no_grad()
    def set_c(self, c: Tensor, length: int) -> None:
        """C becomes the C-tilde of these c (directions, d_model, states) at this length."""
        system = discretise_dplr(*self.continuous(torch.float64))
        tilde = torch.stack(
            [c_tilde_from_c(system, part.to(torch.complex128), length) for part in c]
        )
        self.C.copy_(torch.view_as_real(tilde))
        self.l_kernel.fill_(length)

    def c(self) -> Tensor:
        """c itself, (directions, d_model, states)."""
        system = discretise_dplr(*self.continuous(torch.float64))
        parts = torch.view_as_complex(self.C.double()).unbind(0)
        return torch.stack([c_from_c_tilde(system, part, int(self.l_kernel)) for part in parts])

    def log_steps(self):
        return self.inv_dt

    def resample(self, rate):
        c = self.c()  # what stays; C-tilde belongs to the old steps
        super().resample(rate)
        self.set_c(c, int(self.l_kernel))

    def forward(self, length: int, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Kernels (directions, d_model, length), and with a state what it adds to the outputs,
        (batch, d_model, length)."""
        dt, poles, p, b = self.continuous()
        tilde, l_kernel = torch.view_as_complex(self.C).unbind(0), int(self.l_kernel)
        while l_kernel < length:
            system = discretise_dplr(dt, poles, p, b)
            tilde = [double_c_tilde(system, part, l_kernel) for part in tilde]
            l_kernel *= 2
        inputs = b[None]
        if state is not None:
            # a h = (1 - dt A / 2)^-1 (1 + dt A / 2) h is b-bar of the b (h / dt + A h / 2)
            low = 2 * torch.einsum("rcn,bcn->brc", p.conj(), state).real
            Ah = poles * state - torch.einsum("rcn,brc->bcn", p, low.to(p.dtype))
            inputs = torch.cat([inputs, state / dt[:, None] + Ah / 2])
        kernels = [dplr_kernel(dt, poles, p, inputs, part, l_kernel) for part in tilde]
        from_state = None if state is None else kernels[0][1:, :, :length]
        return torch.stack([kernel[0, :, :length] for kernel in kernels]), from_state

    def system(self):
        """d, v, q, b-bar of `dplr_step`, and 2 c."""
        return *discretise_dplr(*self.continuous()), (2 * self.c()[0]).to(self.C.dtype.to_complex())


class S4(StateSpaceMixer):
    """State: h (batch, d_model, d_state / 2), complex64, of constant size."""

    def __init__(self, d_model: int, config: S4Config):
        super().__init__(d_model)
        self.config = config
        self.kernel = S4Kernel(d_model, config)

    def reset_parameters(self, generator=None, residual_scale=1.0):
        self.kernel.reset_parameters(generator)
        self.reset_read_out(generator, residual_scale)

    def lengthen(self, length: int) -> None:
        """Make C-tilde anew for this length; what the layer computes stays the same."""
        with torch.no_grad():
            self.kernel.set_c(self.kernel.c(), length)

    def init_state(self, batch_size, capacity=0):
        refuse_a_state(self.config.bidirectional)
        C = self.kernel.C
        return C.new_zeros(batch_size, *C.shape[-3:-1], dtype=C.dtype.to_complex())

    def forward(self, x, state=None):
        check_input(x, self.d_model)
        if state is not None:
            refuse_a_state(self.config.bidirectional)
        kernels, from_state = self.kernel(x.shape[1], state)
        if self.config.bidirectional:
            left, right = (lambda part, k=k: fft_conv(part, k) for k in kernels)
            return self.read_out(x, two_sided(x, left, right, first_lag=1)), None
        u = x.to(kernels.dtype)
        y = fft_conv(u, kernels[0])
        if state is None:
            state = self.init_state(x.shape[0])
        else:
            y = y + from_state.transpose(1, 2)
        state = dplr_advance(discretise_dplr(*self.kernel.continuous()), u, state)
        return self.read_out(x, y.to(x.dtype)), state

    def step(self, x_t, state):
        refuse_a_state(self.config.bidirectional)
        check_input(x_t, self.d_model, ("batch", "d_model"))
        *system, c = self.kernel.kept_system()
        state = dplr_step(tuple(system), x_t.to(state.real.dtype), state)
        y = (c * state).sum(-1).real
        return self.read_out(x_t, y.to(x_t.dtype)), state
