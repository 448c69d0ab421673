"""H3: a time-invariant memory between two products, made for recall before there was selection.

    q, k, v = W x           y = W_o (q * SSM_diag(SSM_shift(k) * v))                             (1)

| here        | H3 (2212.14052)                                                                  |
| ----------- | -------------------------------------------------------------------------------- |
| q, k, v     | Q, K, V, Algorithm 1                                                             |
| conv1d      | the shift SSM on K, Sec. 3.1: a filter of d_conv taps                            |
| kernel, D   | the diagonal SSM with its skip, Sec. 3.1; here S4D, as in the official code      |
| out_proj    | W_O, Algorithm 1                                                                 |

Heads are of size 1, the paper's Hadamard case. Departure: the shift has d_conv = 4 taps, as Mamba's
convolution, not d_state of them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer, check_input
from ntlib.mixers.s4d import S4DConfig, S4DKernel
from ntlib.ops.short_conv import short_conv


@dataclass(frozen=True)
class H3Config:
    """The layer of the paper with heads of size 1."""

    d_state: int = 64  # real size of a channel's state, as in the paper
    d_conv: int = 4  # taps of the shift

    def build(self, d_model: int) -> "H3":
        return H3(d_model, self)


class H3State(NamedTuple):
    """What a token leaves to those after it."""

    conv: Tensor  # (batch, d_conv - 1, d_model), the last keys, oldest first
    system: Tensor  # (batch, d_model, d_state / 2), complex


class H3(Mixer):
    """(1); state: an H3State of constant size."""

    def __init__(self, d_model: int, config: H3Config):
        super().__init__()
        self.d_model, self.config = d_model, config
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        # holds the parameters; short_conv computes
        self.conv1d = nn.Conv1d(d_model, d_model, config.d_conv, groups=d_model)
        self.kernel = S4DKernel(d_model, S4DConfig(config.d_state))
        self.D = nn.Parameter(torch.empty(d_model))
        self.out_proj = nn.Linear(d_model, d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator=None, residual_scale=1.0):
        scale = self.d_model**-0.5
        nn.init.normal_(self.in_proj.weight, std=scale, generator=generator)
        nn.init.normal_(self.out_proj.weight, std=residual_scale * scale, generator=generator)
        bound = self.config.d_conv**-0.5
        for parameter in self.conv1d.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        self.kernel.reset_parameters(generator)
        self.D.normal_(generator=generator)

    def init_state(self, batch_size, capacity=0):
        weight = self.in_proj.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        conv = weight.new_zeros(batch_size, self.config.d_conv - 1, self.d_model, dtype=dtype)
        return H3State(conv, self.kernel.init_state(batch_size))

    def forward(self, x, state=None):
        check_input(x, self.d_model)
        conv, system = state or (None, None)
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        k, conv = short_conv(k, self.conv1d.weight.squeeze(1), self.conv1d.bias, state=conv)
        written = k * v
        y, system = self.kernel(written, system)
        y = q * torch.addcmul(y, written, self.D)
        return self.out_proj(y), H3State(conv, system)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        y, state = self(x_t[:, None], state)
        return y[:, 0], state
