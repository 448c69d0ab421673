"""The LSTM as a mixer: the recurrent network that came before attention, with a nonlinear state.

| here    | Hochreiter & Schmidhuber 1997, with forget gates (Gers et al. 2000)       |
| ------- | ------------------------------------------------------------------------- |
| h, c    | output and cell state; c_t = f_t c_(t-1) + i_t g_t, h_t = o_t tanh(c_t)   |
| cell    | torch's own: gates in the order i, f, g, o, two biases each               |

Because the gates of step t read h_(t-1), no form over the whole sequence exists: training, too,
walks token by token. In exchange one layer can be any finite automaton.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer, check_input


@dataclass(frozen=True)
class LSTMConfig:
    """One LSTM layer and an output map."""

    forget_bias: float = 1.0  # remember at first (Jozefowicz et al. 2015)

    def build(self, d_model: int) -> "LSTM":
        return LSTM(d_model, self)


class LSTMState(NamedTuple):
    """Both (batch, d_model)."""

    h: Tensor
    c: Tensor


class LSTM(Mixer):
    """An LSTM of d_model cells; state: two vectors, constant in length."""

    def __init__(self, d_model: int, config: LSTMConfig):
        super().__init__()
        self.config, self.d_model = config, d_model
        self.cell = nn.LSTM(d_model, d_model, batch_first=True)
        self.o = nn.Linear(d_model, d_model, bias=False)

    def reset_parameters(self, generator=None, residual_scale=1.0):
        for weight in (self.cell.weight_ih_l0, self.cell.weight_hh_l0):
            for gate in weight.chunk(4):
                nn.init.normal_(gate, std=self.d_model**-0.5, generator=generator)
        nn.init.zeros_(self.cell.bias_hh_l0)
        nn.init.zeros_(self.cell.bias_ih_l0)
        with torch.no_grad():
            self.cell.bias_ih_l0.chunk(4)[1].fill_(self.config.forget_bias)
        nn.init.normal_(self.o.weight, std=residual_scale * self.d_model**-0.5, generator=generator)

    def init_state(self, batch_size, capacity=0):
        zeros = self.o.weight.new_zeros(batch_size, self.d_model)
        return LSTMState(zeros, zeros)

    def forward(self, x, state=None):
        check_input(x, self.d_model)
        h, c = state or self.init_state(x.shape[0])
        out, (h, c) = self.cell(x, (h[None], c[None]))
        return self.o(out), LSTMState(h[0], c[0])

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        y, state = self.forward(x_t[:, None], state)
        return y[:, 0], state
