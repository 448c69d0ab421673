"""DSS: a diagonal state space per channel whose kernel is a softmax over the sequence's positions.

    K_l = Re sum_n W_n / Lambda_n softmax_l(Delta Lambda_n l),   l = 0 ... L - 1                (1)

| here                 | DSS (2203.14343)                                                          |
| -------------------- | ------------------------------------------------------------------------- |
| Lambda_re, Lambda_im | Lambda, Sec. 3.1: shared by all channels, no sign is enforced             |
| W                    | W, one row per channel                                                    |
| log_dt               | log Delta, one per channel                                                |
| l_kernel             | L                                                                         |
| d_state              | 2 N: poles have Im >= 0 at first, as one of each conjugate pair           |
| D                    | D                                                                         |
| EPSILON              | epsilon of the reciprocal, Sec. 3.2 and App. A.2                          |
| settled, rest        | the two cases Re Lambda <= 0 and > 0 of the recurrence, App. A.3          |

With z = Delta Lambda the softmax is e^(l z) (e^z - 1) / (e^(L z) - 1): a diagonal system's
exponentials, divided by their sum over exactly L positions. So a kernel depends on the length it is
made for. Here L is part of the layer (`l_max`, `renormalise`), which therefore is causal, has a
state, and takes sequences of any length; the official code renormalises for every length it meets.
Beyond L a pole with Re Lambda > 0 goes on growing.

DSS-exp, the paper's other version, is S4D with zero-order hold, Re Lambda = -e^..., and C = W / 2.

The block is that of S4 (see state_space.py). Departures: the paper's layer follows GELU by a linear
map without a gate in some runs; dropout is left out.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ntlib.mixers.protocol import check_input
from ntlib.mixers.state_space import SampledSystem, StateSpaceMixer
from ntlib.ops.hippo import diagonal_poles
from ntlib.ops.long_conv import fft_conv, long_conv
from ntlib.ops.state_space import powers, real_product

EPSILON = 1e-7  # 1 / x is x* / (|x|^2 + EPSILON): a complex softmax may divide by 0


@dataclass(frozen=True)
class DSSConfig:
    """Defaults as published, but for a state as large as the others' here."""

    d_state: int = 64  # real size of a channel's state: half as many complex numbers
    l_max: int = 1024  # the length L that the softmax runs over
    dt_min: float = 0.001  # steps are drawn log-uniformly
    dt_max: float = 0.1

    def build(self, d_model: int) -> "DSS":
        return DSS(d_model, self)


class DSSState(NamedTuple):
    """Sums over the inputs so far; see `DSSKernel.system`."""

    sums: Tensor  # (batch, d_model, d_state / 2), complex
    position: int  # tokens read


class DSSKernel(SampledSystem):
    """The systems' parameters, float32 at least, and the length that the softmax runs over."""

    def __init__(self, d_model: int, config: DSSConfig):
        super().__init__()
        self.config, half = config, config.d_state // 2
        self.log_dt = nn.Parameter(torch.empty(d_model))
        self.Lambda_re = nn.Parameter(torch.empty(half))
        self.Lambda_im = nn.Parameter(torch.empty(half))
        self.W = nn.Parameter(torch.empty(d_model, half, 2))
        self.register_buffer("l_kernel", torch.tensor(config.l_max))

    @torch.no_grad()
    def reset_parameters(self, generator=None):
        """Skew-HiPPO: the poles of HiPPO-LegS's normal part; W ~ N(0, 1) in both parts."""
        config = self.config
        self.log_dt.uniform_(math.log(config.dt_min), math.log(config.dt_max), generator=generator)
        poles = diagonal_poles("legs", config.d_state)
        self.Lambda_re.copy_(poles.real)
        self.Lambda_im.copy_(poles.imag)
        self.W.normal_(generator=generator)
        self.l_kernel.fill_(config.l_max)

    def log_steps(self):
        return self.log_dt

    @torch.no_grad()
    def resample(self, rate):
        """The softmax runs over the same time, so over fewer positions."""
        super().resample(rate)
        self.l_kernel.copy_((self.l_kernel / rate).round().clamp(min=1))

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """z, the weights w, and which poles grow (Re z > 0), each (d_model, states): K is
        Re sum w e^(l z), for poles that grow Re sum w e^((l - L + 1) z), whose exponents stay
        below 0 up to L."""
        poles, W = torch.complex(self.Lambda_re, self.Lambda_im), torch.view_as_complex(self.W)
        z = self.log_dt.exp()[:, None] * poles
        grows = (z.real > 0).detach()
        shrinking = torch.where(grows, -z, z)
        # the sum of e^(l z), or of e^((l - L + 1) z), times Lambda, is denominator / numerator
        numerator = torch.expm1(shrinking)
        denominator = torch.expm1(shrinking * self.l_kernel) * poles
        inverse = denominator.conj() / (denominator * denominator.conj() + EPSILON)
        return z, W * numerator * inverse, grows

    def forward(self, length: int) -> Tensor:
        """K of (1), (d_model, length)."""
        return _kernel(*self.system(), int(self.l_kernel), 0, length)


class DSS(StateSpaceMixer):
    """State: DSSState, of constant size."""

    def __init__(self, d_model: int, config: DSSConfig):
        super().__init__(d_model)
        self.config = config
        if config.d_state < 2 or config.d_state % 2:
            raise ValueError(f"d_state must be even and at least 2, got {config.d_state}")
        if config.l_max < 1:
            raise ValueError(f"l_max must be at least 1, got {config.l_max}")
        self.kernel = DSSKernel(d_model, config)

    def reset_parameters(self, generator=None, residual_scale=1.0):
        self.kernel.reset_parameters(generator)
        self.reset_read_out(generator, residual_scale)

    def renormalise(self, length: int) -> None:
        """Let the softmax run over `length` positions, as the official code does when it meets a
        sequence of that length. This changes what the layer computes."""
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.kernel.l_kernel.fill_(length)

    def init_state(self, batch_size, capacity=0):
        W = self.kernel.W
        sums = W.new_zeros(batch_size, *W.shape[:2], dtype=W.dtype.to_complex())
        return DSSState(sums, 0)

    def forward(self, x, state=None):
        check_input(x, self.d_model)
        z, w, grows = self.kernel.system()
        sums, position = state or self.init_state(x.shape[0])
        u, length, L = x.to(z.real.dtype), x.shape[1], int(self.kernel.l_kernel)
        shrinking, ones = torch.where(grows, -z, z), torch.ones_like(w)
        y, after = long_conv(u, shrinking, ones, torch.where(grows, 0, w), state=sums)
        if grows.any():
            rest = torch.where(grows, w, 0)
            y = y + fft_conv(u, _kernel(z, rest, grows, L, 0, length))
            y = y + _kernel(z, rest * sums, grows, L, position, length).transpose(1, 2)
            # e^(-s z) summed over s: the state of the reversed sequence
            added = long_conv(u.flip(1), shrinking, ones, w)[1]
            after = torch.where(grows, sums + _shift(z, grows, -position) * added, after)
        return self.read_out(x, y.to(x.dtype)), DSSState(after, position + length)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        z, w, grows = self.kernel.kept_system()
        sums, position = state
        u = x_t[..., None].to(z.real.dtype)
        L = int(self.kernel.l_kernel)
        sums = torch.where(grows, sums + _shift(z, grows, -position) * u, z.exp() * sums + u)
        y = (w * _shift(z, grows, position - L + 1) * sums).sum(-1).real
        return self.read_out(x_t, y.to(x_t.dtype)), DSSState(sums, position + 1)


def _shift(z: Tensor, grows: Tensor, steps: int) -> Tensor:
    """e^(steps z) for poles that grow, 1 for the others, where it might overflow."""
    return torch.where(grows, steps * z, 0).exp()


def _kernel(z, w, grows, L: int, first: int, length: int) -> Tensor:
    """Re sum_n w_n e^(z (first + l)), for poles that grow Re sum_n w_n e^(z (first + l - L + 1)),
    l < length, cut in two levels as ntlib.ops.state_space.vandermonde_kernel."""
    inner = max(1, math.isqrt(length))
    outer = -(-length // inner)
    i = torch.arange(outer, device=z.device, dtype=torch.float64) * inner + first
    exponents = i - grows[..., None] * (L - 1.0)
    coarse = (z[..., None].to(torch.complex128) * exponents).exp().to(z.dtype)
    coarse = w[..., None, :] * coarse.transpose(-1, -2)
    return real_product(coarse, powers(z, inner)).flatten(-2)[..., :length]
