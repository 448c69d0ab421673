"""Megalodon's moving average: Mega's with complex decays, so that it can remember a phase, too.

    h_t = p x_t + q h_(t-1)        y_t = Re(eta . h_t) + omega x_t
    p = alpha        q = (1 - alpha delta) e^(i theta_k)        theta_k = k 2 pi omega_j / h

| here         | Megalodon (2404.08801), Sec. 3            | the official code              |
| ------------ | ----------------------------------------- | ------------------------------ |
| alpha, delta | alpha, delta (names agree, unlike Mega's) | sigmoid(alpha), sigmoid(delta) |
| theta_k      | theta_(j,k), k = 1 ... h, of channel j    | k sigmoid(theta) 2 pi / ndim   |
| omega_j      | omega_j                                   | sigmoid(theta)                 |
| eta          | eta, complex                              | gamma / sqrt(ndim)             |
| omega        | (not in the paper) a residual per channel | omega                          |

Departures of the code from the paper, followed here: x_t enters without its e^(i theta) and without
beta, both of which a complex eta can take over. Parameters have the official names and shapes
(complex_exponential_moving_average.py). It is a diagonal linear time-invariant system, as S4D is.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ntlib.mixers.protocol import Mixer, check_input
from ntlib.mixers.state_space import SystemParameters
from ntlib.ops.long_conv import long_conv, step


@dataclass(frozen=True)
class ComplexEMAConfig:
    """Defaults as in Megalodon's experiments."""

    states: int = 16  # h, complex dimensions each channel is expanded to

    def build(self, d_model: int) -> "ComplexEMA":
        return ComplexEMA(d_model, self)


class ComplexEMA(SystemParameters, Mixer):
    """State: h (batch, d_model, states), complex64 at least, of constant size."""

    def __init__(self, d_model: int, config: ComplexEMAConfig):
        super().__init__()
        if config.states < 1:
            raise ValueError(f"states must be at least 1, got {config.states}")
        self.d_model, self.config = d_model, config
        self.alpha = nn.Parameter(torch.empty(d_model, config.states, 1))
        self.delta = nn.Parameter(torch.empty(d_model, config.states, 1))
        self.theta = nn.Parameter(torch.empty(d_model, 1, 1))
        self.gamma = nn.Parameter(torch.empty(d_model, config.states, 2))
        self.omega = nn.Parameter(torch.empty(d_model, 1))

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """As published: angles fall geometrically from 1 to 1 / d_model of a full turn over h
        steps, their order over the channels drawn; residual_scale multiplies gamma and omega."""
        nn.init.normal_(self.alpha, std=0.2, generator=generator)
        nn.init.normal_(self.delta, std=0.2, generator=generator)
        nn.init.normal_(self.gamma, std=residual_scale, generator=generator)
        bound = residual_scale
        nn.init.trunc_normal_(self.omega, std=0.25 * bound, a=-bound, b=bound, generator=generator)
        rank = 1 + torch.randperm(self.d_model, generator=generator, device=self.theta.device)
        with torch.no_grad():
            self.gamma[..., 1] = 0
            turns = torch.exp(-math.log(self.d_model) / self.d_model * rank.double())
            self.theta.copy_(torch.logit(turns).view(-1, 1, 1))

    def continuous_to_discrete(self):
        """log q, p and eta of one step, all complex."""
        alpha, delta = torch.sigmoid(self.alpha[..., 0]), torch.sigmoid(self.delta[..., 0])
        k = torch.arange(1, self.config.states + 1, device=alpha.device)
        angles = k * torch.sigmoid(self.theta[..., 0]) * (2 * math.pi / self.config.states)
        log_q = torch.complex(torch.log1p(-alpha * delta), angles)
        eta = torch.view_as_complex(self.gamma) * self.config.states**-0.5
        return log_q, alpha.to(eta.dtype), eta

    def system(self):
        """q, p, eta of one step."""
        log_q, p, eta = self.continuous_to_discrete()
        return log_q.exp(), p, eta

    def init_state(self, batch_size, capacity=0):
        shape = (batch_size, self.d_model, self.config.states)
        return self.gamma.new_zeros(shape, dtype=self.gamma.dtype.to_complex())

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of long_conv's forms."""
        check_input(x, self.d_model)
        y, state = long_conv(x, *self.continuous_to_discrete(), state=state, form=form)
        return self._read_out(x, y), state

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        y, state = step(x_t, *self.kept_system(), state)
        return self._read_out(x_t, y), state

    def _read_out(self, x, y):
        return torch.addcmul(y.to(x.dtype), x, self.omega[:, 0].to(x.dtype))
