"""The time mix of RWKV-4.

    r, k, v = W_r x^r, W_k x^k, W_v x^v          y = W_o (sigmoid(r) * wkv(k, v))               (1)

x^r, x^k, x^v are mixtures of x_t and x_(t-1), see token_shift.

| here                | RWKV-4 (2305.13048)                       | official checkpoints |
| ------------------- | ----------------------------------------- | ------------------------------ |
| x^r, x^k, x^v       | mu * x_t + (1 - mu) * x_(t-1)             | mu: time_mix_r, _k, _v |
| r, k, v, y          | r_t, k_t, v_t, o_t (time-mixing block)    | receptance, key, value, output |
| log_decay           | -w                                        | -exp(time_decay) |
| bonus               | u                                         | time_first |
| wkv                 | wkv_t, see ntlib.ops.wkv                  | |

Names, shapes and the initialisation are the official code's (RWKV-LM, RWKV-v4). The block around it
normalises x by a LayerNorm, adds y to the residual stream and goes on with a ChannelMix.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer, check_input
from ntlib.mixers.rwkv_init import channel, depth, fraction, set_, zigzag
from ntlib.mixers.rwkv_step_kernel import arrays, paths, rwkv4_step, weights
from ntlib.mixers.token_shift import last_token, shift_mix
from ntlib.ops.compiled import step_serves
from ntlib.ops.wkv import WKVState, empty_state, step, wkv

# what the compiled step reads
_STEP = paths(
    *("time_mix_r", "time_mix_k", "time_mix_v"),
    *("receptance.weight", "key.weight", "value.weight", "output.weight"),
    *("time_decay", "time_first"),
)


@dataclass(frozen=True)
class RWKV4Config:
    """RWKV-4's time mix: one softmax per channel, no heads."""

    layer: int = 0  # the initialisation depends on the depth
    n_layers: int = 1

    def build(self, d_model: int) -> "RWKV4":
        return RWKV4(d_model, self)


class RWKV4State(NamedTuple):
    """Four vectors per sequence, constant in length."""

    last: Tensor  # (batch, d_model): the last token
    memory: WKVState  # a, b, p, each (batch, d_model)


class RWKV4(Mixer):
    """Eq. (1); state: an RWKV4State."""

    def __init__(self, d_model: int, config: RWKV4Config):
        super().__init__()
        depth(config.layer, config.n_layers)  # refuses an impossible layer right here
        self.config, self.d_model = config, d_model
        self.time_decay = nn.Parameter(torch.zeros(d_model))
        self.time_first = nn.Parameter(torch.zeros(d_model))
        self.time_mix_k = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_mix_v = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_mix_r = nn.Parameter(torch.zeros(1, 1, d_model))
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.receptance = nn.Linear(d_model, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """The official start: k = r = 0 and y = 0, since W_k, W_r and W_o are 0 (residual_scale has
        nothing to do)."""
        rho, eta = depth(self.config.layer, self.config.n_layers)
        set_(self.time_decay, -5 + 8 * fraction(self.d_model) ** (0.7 + 1.3 * rho))
        set_(self.time_first, math.log(0.3) + 0.5 * zigzag(self.d_model))
        set_(self.time_mix_k, channel(self.d_model) ** eta)
        set_(self.time_mix_v, channel(self.d_model) ** eta + 0.3 * rho)
        set_(self.time_mix_r, channel(self.d_model) ** (0.5 * eta))
        nn.init.orthogonal_(self.value.weight, generator=generator)
        for linear in (self.key, self.receptance, self.output):
            nn.init.zeros_(linear.weight)

    def init_state(self, batch_size, capacity=0):
        last = self.key.weight.new_zeros(batch_size, self.d_model)
        return RWKV4State(last, empty_state(last))

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of wkv's forms."""
        check_input(x, self.d_model)
        last, memory = state or (None, None)
        r, k, v = self._project(*shift_mix(x, last, self._mixtures()[:, None]))
        out, memory = wkv(k, v, self._log_decay(), self.time_first, state=memory, form=form)
        return self.output(torch.sigmoid(r) * out), RWKV4State(last_token(x), memory)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        if step_serves(x_t):
            return self._compiled_step(x_t, state)
        r, k, v = self._project(*torch.lerp(x_t, state.last, self._mixtures()).unbind())
        work = state.memory.exponent.dtype
        out, memory = step(
            k.to(work), v.to(work), self._log_decay(), self.time_first.to(work), state.memory
        )
        return self.output(torch.sigmoid(r) * out.to(r.dtype)), RWKV4State(x_t, memory)

    def _compiled_step(self, x_t: Tensor, state: RWKV4State) -> tuple[Tensor, RWKV4State]:
        inputs = arrays(x_t, state.last, *state.memory)
        y, final = np.empty_like(inputs[0]), np.empty((3, *x_t.shape), inputs[2].dtype)
        rwkv4_step(*inputs, *weights(self, _STEP), final, y)
        return torch.from_numpy(y), RWKV4State(x_t, WKVState(*torch.from_numpy(final).unbind()))

    def _mixtures(self) -> Tensor:
        """How much of x_(t-1) is in x^r, x^k, x^v: (3, 1, d_model)."""
        return 1 - torch.cat([self.time_mix_r, self.time_mix_k, self.time_mix_v])

    def _project(self, x_r: Tensor, x_k: Tensor, x_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.receptance(x_r), self.key(x_k), self.value(x_v)

    def _log_decay(self) -> Tensor:
        # in bfloat16 e^-exp(time_decay) would have lost what tells a slow decay from 1
        work = torch.promote_types(self.time_decay.dtype, torch.float32)
        return -self.time_decay.to(work).exp()
