"""S5: one diagonal state space for all channels together, evaluated by a parallel scan.

    h_t = a ⊙ h_{t-1} + b x_t,   y_t = 2 Re(C h_t) + D ⊙ x_t                                    (1)

| here                 | S5 (2208.04933)                                                           |
| -------------------- | ------------------------------------------------------------------------- |
| Lambda_re, Lambda_im | Lambda, Eq. 4: one of each conjugate pair, P / 2 complex numbers          |
| B, C                 | B-tilde = V^-1 B, C-tilde = C V, Eq. 4                                    |
| D                    | D, its diagonal, Eq. 1                                                    |
| log_step             | log Delta, one per *state*, Sec. 4.3 (S4 and S4D: one per channel)        |
| d_state              | P                                                                         |
| blocks               | J, the copies of HiPPO-N on the diagonal of the initial A, Sec. 4.3       |
| a, b                 | Lambda-bar, B-bar, Eq. 6                                                  |
| scan                 | the parallel scan of Sec. 3.3 and Appendix H                              |

Parameters are named as in the official repository (s5/ssm.py), where C of two directions is one
matrix of twice the width or two matrices, here (directions, d_model, d_state / 2, 2). Of a pair the
pole with positive imaginary part is kept, there the other one; the system is the same.

The block is that of the official half_glu1, g ⊙ sigmoid(W g) with g = gelu(y), or, with the gate
"full", S4's. Departures: gelu is exact, the official one approximated by tanh (up to 5e-4 off); W
starts like every other linear map here. The official flag to learn both halves of the pairs
independently (conj_sym=False) is left out, as are half_glu2 and dropout.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.protocol import check_input
from ntlib.mixers.state_space import SampledSystem, StateSpaceMixer, refuse_a_state
from ntlib.ops.hippo import normal_plus_low_rank
from ntlib.ops.long_conv import two_sided
from ntlib.ops.scan import scan
from ntlib.ops.state_space import discretise_diagonal

# standard deviation of N(0, 1) cut off at -2 and 2: JAX's lecun_normal divides by it
TRUNCATED_STD = 0.87962566103423978


@dataclass(frozen=True)
class S5Config:
    """Defaults as in the official code, with a P of the smaller published runs."""

    d_state: int = 64  # P, the real size of the layer's one state
    blocks: int = 1  # J; published runs have 3 to 16
    discretisation: str = "zoh"  # or "bilinear"
    c_init: str = "trunc_standard_normal"  # "lecun_normal", "complex_normal": see reset_parameters
    clip_poles: bool = False  # keep Re Lambda <= -1e-4: for lengths that were not trained on
    dt_min: float = 0.001  # steps are drawn log-uniformly
    dt_max: float = 0.1
    gate: str = (
        "half"  # of the block around the system; "full" is S4's, with a matrix twice as large
    )
    bidirectional: bool = (
        False  # a second C reads the states of a scan from the right; no state then
    )

    def build(self, d_model: int) -> "S5":
        return S5(d_model, self)


class S5System(SampledSystem):
    """The system's parameters, float32 at least."""

    def __init__(self, d_model: int, config: S5Config):
        super().__init__()
        self.config, half = config, config.d_state // 2
        self.Lambda_re = nn.Parameter(torch.empty(half))
        self.Lambda_im = nn.Parameter(torch.empty(half))
        self.B = nn.Parameter(torch.empty(half, d_model, 2))
        self.C = nn.Parameter(torch.empty(1 + config.bidirectional, d_model, half, 2))
        self.log_step = nn.Parameter(torch.empty(half))

    @torch.no_grad()
    def reset_parameters(self, generator=None):
        """B = V^-1 (real, variance 1 / P); C "trunc_standard_normal" (complex, variance 1 / P in
        both parts) V, "lecun_normal" the same with 1 / (P d_model), which is what the official
        code's fan-in amounts to, "complex_normal" N(0, 1/2) in both parts, not multiplied by V."""
        config, d_model = self.config, self.B.shape[1]
        poles, *_, V = normal_plus_low_rank("legs", config.d_state // config.blocks)
        self.Lambda_re.copy_(poles.real.repeat(config.blocks))
        self.Lambda_im.copy_(poles.imag.repeat(config.blocks))
        V = torch.block_diag(*[V] * config.blocks)
        b = _lecun_normal((config.d_state, d_model), config.d_state, generator)
        self.B.copy_(torch.view_as_real(V.mH @ b.to(V.dtype)))
        if config.c_init == "complex_normal":
            self.C.normal_(std=0.5**0.5, generator=generator)
        else:
            fan_in = config.d_state * (1 if config.c_init == "trunc_standard_normal" else d_model)
            c = _lecun_normal((len(self.C), d_model, config.d_state, 2), fan_in, generator)
            self.C.copy_(torch.view_as_real(torch.view_as_complex(c) @ V))
        low, high = math.log(config.dt_min), math.log(config.dt_max)
        self.log_step.uniform_(low, high, generator=generator)

    def log_steps(self):
        return self.log_step

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """a (states,); the real matrices that make (real, imaginary) parts of b x of x, and y of
        those of h, the latter for every direction."""
        real = self.Lambda_re.clamp(max=-1e-4) if self.config.clip_poles else self.Lambda_re
        poles = torch.complex(real, self.Lambda_im)
        # each state is a "channel" of one state of its own: the steps belong to the states
        log_a, scale = discretise_diagonal(
            poles[:, None], self.log_step.exp(), self.config.discretisation
        )
        b = torch.view_as_real(scale * torch.view_as_complex(self.B))  # (states, d_model, 2)
        c = 2 * self.C * self.C.new_tensor([1.0, -1.0])
        return log_a.exp()[:, 0], b.transpose(1, 2).flatten(0, 1), c.flatten(-2)


class S5(StateSpaceMixer):
    """State: h (batch, d_state / 2), complex64, of constant size."""

    def __init__(self, d_model: int, config: S5Config):
        super().__init__(d_model)
        self.config = config
        _check(config)
        if config.gate == "half":
            self.output_linear = nn.Sequential(nn.Linear(d_model, d_model))
        self.kernel = S5System(d_model, config)

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """A half gate has no output map that `residual_scale` could shrink: there it does nothing,
        as in the official code."""
        self.kernel.reset_parameters(generator)
        full = self.config.gate == "full"
        self.reset_read_out(generator, residual_scale if full else 1.0)

    def init_state(self, batch_size, capacity=0):
        refuse_a_state(self.config.bidirectional)
        real = self.kernel.Lambda_re
        return real.new_zeros(batch_size, len(real), dtype=real.dtype.to_complex())

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of scan's forms."""
        check_input(x, self.d_model)
        if state is not None:
            refuse_a_state(self.config.bidirectional)
        a, b, c = self.kernel.system()
        if not self.config.bidirectional:
            h, state = scan(a, _inputs(x, b), state=state, form=form)
            return self.read_out(x, _outputs(h, c[0]).to(x.dtype)), state
        left, right = (
            lambda part, weights=weights: _outputs(scan(a, _inputs(part, b), form=form)[0], weights)
            for weights in c
        )
        # both scans see the present, as in the official code
        return self.read_out(x, two_sided(x, left, right, first_lag=0).to(x.dtype)), None

    def step(self, x_t, state):
        refuse_a_state(self.config.bidirectional)
        check_input(x_t, self.d_model, ("batch", "d_model"))
        a, b, c = self.kernel.kept_system()
        state = a * state + _inputs(x_t, b)
        return self.read_out(x_t, _outputs(state, c[0]).to(x_t.dtype)), state

    def read_out(self, x, y):
        if self.config.gate == "full":
            return super().read_out(x, y)
        linear = self.output_linear[0]
        g = F.gelu(torch.addcmul(y, x, self.D))
        return g * F.linear(g, linear.weight, linear.bias).sigmoid()


def _inputs(x: Tensor, b: Tensor) -> Tensor:
    """b x as one real matrix product."""
    return torch.view_as_complex(F.linear(x.to(b.dtype), b).unflatten(-1, (-1, 2)))


def _outputs(h: Tensor, c: Tensor) -> Tensor:
    """2 Re(C h) as one real matrix product."""
    return F.linear(torch.view_as_real(h).flatten(-2), c)


def _lecun_normal(shape, fan_in, generator):
    std = fan_in**-0.5 / TRUNCATED_STD
    values = torch.empty(shape, dtype=torch.float64)
    return nn.init.trunc_normal_(values, std=std, a=-2 * std, b=2 * std, generator=generator)


def _check(config: S5Config) -> None:
    if config.blocks < 1 or config.d_state < 2 or config.d_state % (2 * config.blocks):
        raise ValueError(
            f"d_state must be a multiple of twice blocks = {config.blocks}, which must be "
            f"positive, got {config.d_state}"
        )
    allowed = {
        "discretisation": ("zoh", "bilinear"),
        "c_init": ("trunc_standard_normal", "lecun_normal", "complex_normal"),
        "gate": ("half", "full"),
    }
    for name, values in allowed.items():
        if getattr(config, name) not in values:
            raise ValueError(f"{name} must be one of {values}, got {getattr(config, name)!r}")
