"""Mega's moving average: a multi-dimensional damped exponential moving average per channel.

| here  | Mega (2209.10655), Eq. 1                       | the official code    |
| ----- | ---------------------------------------------- | -------------------- |
| delta | alpha = sigmoid(delta), weight of the input    | delta (names differ) |
| alpha | delta = sigmoid(alpha), damping                | alpha                |
| a     | 1 - alpha delta                                | q                    |
| beta  | beta, the expansion to `states` dimensions     | beta                 |
| gamma | eta = gamma / sqrt(states)                     | gamma                |
| omega | (not in the paper) a residual, one per channel | omega                |

y = silu(EMA(x) + omega x), the silu and omega as in the code. Parameters have the names and shapes
of fairseq/modules/exponential_moving_average.py. Two-sided, the second half of the parameters reads
the sequence from the right; the present counts in both. Departure: the official code may cut its
kernel after `truncation` steps; here the average reaches as far as it decays.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ntlib.mixers.protocol import Mixer, check_input
from ntlib.mixers.state_space import SystemParameters, refuse_a_state
from ntlib.ops.long_conv import long_conv, step, two_sided


@dataclass(frozen=True)
class DampedEMAConfig:
    """Defaults as in Mega's experiments."""

    # h, dimensions each channel is expanded to; 0: no average, the ablation of Fig. 4
    states: int = 16
    bidirectional: bool = False  # for encoders; no state then

    def build(self, d_model: int) -> "DampedEMA":
        return DampedEMA(d_model, self)


class DampedEMA(SystemParameters, Mixer):
    """State: h (batch, d_model, states), float32, of constant size."""

    def __init__(self, d_model: int, config: DampedEMAConfig):
        super().__init__()
        self.d_model, self.config = d_model, config
        if config.states < 0:
            raise ValueError(f"states must not be negative, got {config.states}")
        rows = d_model * (1 + config.bidirectional)
        self.delta = nn.Parameter(torch.empty(rows, config.states, 1))
        self.alpha = nn.Parameter(torch.empty(rows, config.states, 1))
        self.beta = nn.Parameter(torch.empty(rows, config.states, 1))
        self.gamma = nn.Parameter(torch.empty(rows, config.states))
        self.omega = nn.Parameter(torch.empty(d_model))

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """As published: beta alternates 1, -1, ...; residual_scale multiplies gamma and omega."""
        nn.init.normal_(self.delta, std=0.2, generator=generator)
        nn.init.normal_(self.alpha, std=0.2, generator=generator)
        nn.init.normal_(self.beta, std=0.02, generator=generator)
        with torch.no_grad():
            self.beta[:, ::2] += 1
            self.beta[:, 1::2] -= 1
        nn.init.normal_(self.gamma, std=residual_scale, generator=generator)
        nn.init.normal_(self.omega, std=residual_scale, generator=generator)

    def continuous_to_discrete(self):
        """log a, b, c of `long_conv`, both directions one below the other."""
        p = torch.sigmoid(self.delta).squeeze(-1)
        log_a = torch.log1p(-p * torch.sigmoid(self.alpha).squeeze(-1))
        eta = self.gamma * max(self.config.states, 1) ** -0.5
        return log_a, p * self.beta.squeeze(-1), eta

    def system(self):
        """a, b, c of one step."""
        log_a, b, c = self.continuous_to_discrete()
        return log_a.exp(), b, c

    def init_state(self, batch_size, capacity=0):
        refuse_a_state(self.config.bidirectional)
        return self.gamma.new_zeros(batch_size, *self.gamma.shape)

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of long_conv's forms."""
        check_input(x, self.d_model)
        system = self.continuous_to_discrete()
        if not self.config.bidirectional:
            y, state = long_conv(x, *system, state=state, form=form)
            return self._read_out(x, y), state
        if state is not None:
            refuse_a_state(self.config.bidirectional)
        halves = zip(*(part.chunk(2) for part in system), strict=True)
        left, right = (
            lambda part, half=half: long_conv(part, *half, form=form)[0] for half in halves
        )
        return self._read_out(x, two_sided(x, left, right, first_lag=0)), None

    def step(self, x_t, state):
        refuse_a_state(self.config.bidirectional)
        check_input(x_t, self.d_model, ("batch", "d_model"))
        y, state = step(x_t, *self.kept_system(), state)
        return self._read_out(x_t, y), state

    def _read_out(self, x, y):
        return F.silu(torch.addcmul(y.to(x.dtype), x, self.omega.to(x.dtype)))
