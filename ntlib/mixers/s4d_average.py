"""S4D in the place of Mega's moving average (ntlib.mixers.ema), with the skip and the silu of that:

    y = silu(SSM(x) + D x)

a complex system with as many real numbers of state, the ablation of S4's authors
(configs/experiment/mega/lra-image of their repository).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer, check_input
from ntlib.mixers.s4d import S4DConfig, S4DKernel


@dataclass(frozen=True)
class S4DAverageConfig:
    """As S4DConfig."""

    states: int = 16  # real size of a channel's state
    bidirectional: bool = False  # for encoders; no state then

    def system(self) -> S4DConfig:
        """What averages."""
        return S4DConfig(self.states, bidirectional=self.bidirectional)

    def build(self, d_model: int) -> "S4DAverage":
        return S4DAverage(d_model, self)


class S4DAverage(Mixer):
    """State: h (batch, d_model, states / 2), complex64, of constant size."""

    def __init__(self, d_model: int, config: S4DAverageConfig):
        super().__init__()
        self.d_model, self.config = d_model, config
        self.D = nn.Parameter(torch.empty(d_model))
        self.kernel = S4DKernel(d_model, config.system())

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """D ~ N(0, 1); residual_scale multiplies it and C."""
        self.kernel.reset_parameters(generator)
        nn.init.normal_(self.D, std=residual_scale, generator=generator)
        with torch.no_grad():
            self.kernel.C.mul_(residual_scale)

    def init_state(self, batch_size, capacity=0):
        return self.kernel.init_state(batch_size)

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of long_conv's forms."""
        check_input(x, self.d_model)
        y, state = self.kernel(x, state, form)
        return self._read_out(x, y), state

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        y, state = self.kernel.step(x_t, state)
        return self._read_out(x_t, y), state

    def _read_out(self, x: Tensor, y: Tensor) -> Tensor:
        return F.silu(torch.addcmul(y, x, self.D))
