"""Mamba's mixer: an input map, a short convolution, the selective scan, a gate, an output map.

| here               | Mamba (2312.00752)                                                          |
| ------------------ | --------------------------------------------------------------------------- |
| in_proj            | the two linear maps at the bottom of Fig. 3: first x's, then the gate's     |
| conv1d             | Conv and the nonlinearity after it, Fig. 3                                  |
| x_proj             | s_B(x), s_C(x), Sec. 3.2, and the first, narrowing map of s_Delta, Sec. 3.6 |
| dt_proj            | the second, widening map of s_Delta with the parameter's bias               |
| delta              | Delta = tau_Delta(Parameter + s_Delta(x)), tau_Delta = softplus, Sec. 3.2   |
| A_log              | A = -exp(A_log); initialised to -1 ... -N, "S4D-Real", Sec. 3.6             |
| D                  | (not in the equations)                                                      |
| selective_scan     | SSM(A bar, B bar, C)(x), Algorithm 2, and the gate of Fig. 3                |
| out_proj           | the linear map at the top of Fig. 3                                         |

Parameters are named as in the official code (mamba_ssm/modules/mamba_simple.py), so that its
checkpoints fit as they are. Departures of that code from the paper that we follow: s_Delta narrows
to d_model / 16 instead of 1, and B is discretised by Euler's rule (see ntlib.ops.selective_scan).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.mamba_init import draw_step_bias, draw_uniform
from ntlib.mixers.mamba_step_kernel import mamba_step
from ntlib.mixers.protocol import Mixer, check_input
from ntlib.ops.compiled import array, step_serves
from ntlib.ops.selective_scan import selective_scan
from ntlib.ops.short_conv import short_conv, short_conv_step


@dataclass(frozen=True)
class MambaConfig:
    """Defaults as in the released code and all published models."""

    d_state: int = 16  # N, states per channel
    d_conv: int = 4  # tokens that the convolution sees
    expand: int = 2  # E: channels inside are expand * d_model
    dt_rank: int | None = (
        None  # width that Delta is computed through; None: d_model / 16, rounded up
    )
    dt_min: float = 0.001  # Delta starts log-uniform: state 1 remembers 1 / dt_max tokens ...
    dt_max: float = 0.1  # ... to 1 / dt_min
    dt_init_floor: float = 1e-4  # no Delta starts below: softplus would hardly move it

    def build(self, d_model: int) -> "Mamba":
        return Mamba(d_model, self)


class MambaState(NamedTuple):
    """What a token leaves to those after it."""

    conv: Tensor  # (batch, d_conv - 1, d_inner), the convolution's last inputs, oldest first
    ssm: Tensor  # (batch, d_inner, d_state), h; float32 at least, as is conv


class Mamba(Mixer):
    """The selective state space layer; state: a MambaState of constant size."""

    def __init__(self, d_model: int, config: MambaConfig):
        super().__init__()
        self.d_model, self.config = d_model, config
        self.d_inner, self.d_state = config.expand * d_model, config.d_state
        self.dt_rank = config.dt_rank or -(-d_model // 16)
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        # holds the parameters under their published names; short_conv computes
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, config.d_conv, groups=self.d_inner)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * self.d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, self.d_state))
        self.D = nn.Parameter(torch.empty(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator=None, residual_scale=1.0):
        for layer in (self.in_proj, self.x_proj, self.out_proj):
            draw_uniform(layer.weight, layer.in_features, generator)
        for parameter in self.conv1d.parameters():
            draw_uniform(parameter, self.config.d_conv, generator)
        self.out_proj.weight.mul_(residual_scale)
        draw_uniform(self.dt_proj.weight, self.dt_rank, generator)
        c = self.config
        draw_step_bias(self.dt_proj.bias, (c.dt_min, c.dt_max), c.dt_init_floor, generator)
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_log))
        self.D.fill_(1.0)

    def init_state(self, batch_size, capacity=0):
        weight = self.in_proj.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        conv = weight.new_zeros(batch_size, self.config.d_conv - 1, self.d_inner, dtype=dtype)
        ssm = weight.new_zeros(batch_size, self.d_inner, self.d_state, dtype=dtype)
        return MambaState(conv, ssm)

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of the selective scan's forms."""
        check_input(x, self.d_model)
        conv, ssm = state or (None, None)
        # two products, not one cut in half: the scan and the convolution read whole arrays
        x, gate = (F.linear(x, weight) for weight in self.in_proj.weight.chunk(2))
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        x, conv = short_conv(x, taps, bias, state=conv, activation="silu")
        delta, B, C = self._select(x)
        A = -self.A_log.exp()
        y, ssm = selective_scan(x, delta, A, B, C, self.D, gate, state=ssm, form=form)
        return self.out_proj(y), MambaState(conv, ssm)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        if step_serves(x_t):
            return self._compiled_step(x_t, state)
        conv, ssm = state
        x_t, gate = self.in_proj(x_t).chunk(2, dim=-1)
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        x_t, conv = short_conv_step(x_t, taps, bias, conv, "silu")
        x_t, gate = x_t[:, None], gate[:, None]
        delta, B, C = self._select(x_t)
        A = -self.A_log.exp()
        y, ssm = selective_scan(x_t, delta, A, B, C, self.D, gate, state=ssm)
        return self.out_proj(y[:, 0]), MambaState(conv, ssm)

    def _compiled_step(self, x_t: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        state = MambaState(*(part.clone(memory_format=torch.contiguous_format) for part in state))
        y = x_t.new_empty(x_t.shape)
        # parameters in the order of torch: a module's own first, then those of its parts
        given = (x_t, *state, *self.parameters())
        mamba_step(*(array(part) for part in given), y.numpy())
        return y, state

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What depends on the token: Delta (..., d_inner), B and C (..., d_state)."""
        delta, B, C = self.x_proj(x).split((self.dt_rank, self.d_state, self.d_state), dim=-1)
        return F.softplus(self.dt_proj(delta)), B, C
