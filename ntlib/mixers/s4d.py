"""S4D: a diagonal state space per channel, the block of the official minimal module.

| here                   | S4D (2206.11893)                                                        |
| ---------------------- | ----------------------------------------------------------------------- |
| log_dt                 | log Delta, one per channel                                              |
| log_A_real, A_imag     | A = -exp(log_A_real) + i A_imag, Sec. 3.4                               |
| B                      | B; 1 unless learned (`learn_b`)                                         |
| C                      | C; outputs are 2 Re(C x), Sec. 3.3: one of each conjugate pair is kept  |
| D                      | D                                                                       |
| init                   | S4D-Lin, -Inv, -LegS, -Real, Sec. 4                                     |
| discretise_diagonal    | bilinear and zero-order hold, Sec. 3.1                                  |
| long_conv              | the convolution with K-bar, Eq. 6, or the recurrence it is equal to     |

Parameters are named as in models/s4/s4d.py of the official repository (whose output map is a
convolution of width 1: its weight has one more dimension). The block is y = GLU(W gelu(SSM(x) +
D x)); dropout is left out. The repository's larger module calls log_dt inv_dt and keeps the pole
with the negative imaginary part of each pair.

With init="legs" B starts as HiPPO's b, twice what the theory asks for, as in the official code
(which clips Im b at 2, see s4.py), and is learned; with the others it starts as 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ntlib.mixers.protocol import check_input
from ntlib.mixers.state_space import SampledSystem, StateSpaceMixer, refuse_a_state
from ntlib.ops.hippo import diagonal_poles, normal_plus_low_rank
from ntlib.ops.long_conv import long_conv, step, two_sided
from ntlib.ops.state_space import discretise_diagonal


@dataclass(frozen=True)
class S4DConfig:
    """Defaults as in the official minimal module."""

    d_state: int = 64  # real size of a channel's state; half as many complex numbers are kept
    init: str = "lin"  # "lin", "inv", "legs" or "real"
    discretisation: str = "zoh"  # or "bilinear", S4's rule
    dt_min: float = 0.001  # steps are drawn log-uniformly: time scales from 1 / dt_max tokens ...
    dt_max: float = 0.1  # ... to 1 / dt_min; the longest should cover the task's length
    learn_b: bool = False  # the product B C is all that counts, but training moves both
    bidirectional: bool = False  # a second C reads the sequence from the right; no state then

    def build(self, d_model: int) -> "S4D":
        return S4D(d_model, self)


class S4DKernel(SampledSystem):
    """SSM(x), a system per channel with nothing around it; parameters in float32 at least."""

    def __init__(self, d_model: int, config: S4DConfig):
        super().__init__()
        self.config, half = config, config.d_state // 2
        if config.d_state < 2 or config.d_state % 2:
            raise ValueError(f"d_state must be even and at least 2, got {config.d_state}")
        if config.discretisation not in ("zoh", "bilinear"):
            raise ValueError(
                f"discretisation must be 'zoh' or 'bilinear', got {config.discretisation!r}"
            )
        diagonal_poles(config.init, config.d_state)  # refuses what does not exist right here
        self.log_dt = nn.Parameter(torch.empty(d_model))
        self.log_A_real = nn.Parameter(torch.empty(d_model, half))
        self.A_imag = nn.Parameter(torch.empty(d_model, half))
        directions = (2,) if config.bidirectional else ()
        self.C = nn.Parameter(torch.empty(*directions, d_model, half, 2))
        learned = config.learn_b or config.init == "legs"
        self.B = nn.Parameter(torch.empty(d_model, half, 2)) if learned else None

    @torch.no_grad()
    def reset_parameters(self, generator=None):
        config = self.config
        self.log_dt.uniform_(math.log(config.dt_min), math.log(config.dt_max), generator=generator)
        poles = diagonal_poles(config.init, config.d_state)
        self.log_A_real.copy_((-poles.real).log().expand_as(self.log_A_real))
        self.A_imag.copy_(poles.imag.expand_as(self.A_imag))
        self.C.normal_(std=0.5**0.5, generator=generator)  # |C_n|^2 has mean 1
        if self.B is not None:
            b = torch.ones_like(poles)
            if config.init == "legs":
                b = normal_plus_low_rank("legs", config.d_state)[2]
            self.B.copy_(torch.view_as_real(b).expand_as(self.B))

    def log_steps(self):
        return self.log_dt

    def continuous_to_discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """log a, b, c of `long_conv`; c with both directions in front if there are two."""
        A = torch.complex(-self.log_A_real.exp(), self.A_imag)
        log_a, b = discretise_diagonal(A, self.log_dt.exp(), self.config.discretisation)
        b = b if self.B is None else b * torch.view_as_complex(self.B)
        return log_a, b, 2 * torch.view_as_complex(self.C)

    def system(self):
        """a, b, c of one step."""
        log_a, b, c = self.continuous_to_discrete()
        return log_a.exp(), b, c

    def init_state(self, batch_size: int) -> Tensor:
        """h, (batch, channels, d_state / 2); raises ValueError if there is none."""
        refuse_a_state(self.config.bidirectional)
        C = self.C
        return C.new_zeros(batch_size, *C.shape[-3:-1], dtype=C.dtype.to_complex())

    def forward(
        self, x: Tensor, state: Tensor | None = None, form: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """SSM(x), (batch, length, channels), and the state, if there is one."""
        log_a, b, c = self.continuous_to_discrete()
        if not self.config.bidirectional:
            return long_conv(x, log_a, b, c, state=state, form=form)
        if state is not None:
            refuse_a_state(bidirectional=True)
        left, right = (
            lambda part, weights=weights: long_conv(part, log_a, b, weights, form=form)[0]
            for weights in c
        )
        return two_sided(x, left, right, first_lag=1), None

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token; see forward."""
        refuse_a_state(self.config.bidirectional)
        y, state = step(x_t, *self.kept_system(), state)
        return y.to(x_t.dtype), state


class S4D(StateSpaceMixer):
    """State: h (batch, d_model, d_state / 2), complex64, of constant size."""

    def __init__(self, d_model: int, config: S4DConfig):
        super().__init__(d_model)
        self.config = config
        self.kernel = S4DKernel(d_model, config)

    def reset_parameters(self, generator=None, residual_scale=1.0):
        self.kernel.reset_parameters(generator)
        self.reset_read_out(generator, residual_scale)

    def init_state(self, batch_size, capacity=0):
        return self.kernel.init_state(batch_size)

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of long_conv's forms."""
        check_input(x, self.d_model)
        y, state = self.kernel(x, state, form)
        return self.read_out(x, y), state

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        y, state = self.kernel.step(x_t, state)
        return self.read_out(x_t, y), state
