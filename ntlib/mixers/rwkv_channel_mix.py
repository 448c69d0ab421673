"""Channel mix: RWKV's feed-forward layer. It has a token shift, so it is a mixer with a state.

    k = max(0, W_k x^k)^2          y = sigmoid(W_r x^r) * W_v k                                 (1)

x^k and x^r are mixtures of x_t and x_(t-1), see token_shift. Version 7 drops the receptance, the
sigmoid's factor.

| here                           | version 4, 5           | version 6            | version 7  |
| ------------------------------ | ---------------------- | -------------------- | ---------- |
| mixture x^k, x^r               | time_mix_k, time_mix_r | time_maa_k, _r       | x_k, none  |
| its weight multiplies          | x_t                    | x_(t-1)              | x_(t-1)    |
| hidden width, rows of W_k      | 4 D; version 5: 3.5 D  | 3.5 D                | 4 D        |
| W_k, W_r, W_v: key.weight, receptance.weight, value.weight in all | | |            |

3.5 D is rounded down to a multiple of 32: versions 5 and 6 save here what their gate costs. Names,
shapes and initialisations are the official checkpoints' and code's (RWKV-LM); the papers are
2305.13048 (4), 2404.05892 (5, 6) and 2503.14456 (7).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer, check_input
from ntlib.mixers.rwkv_init import channel, depth, set_
from ntlib.mixers.rwkv_step_kernel import arrays, channel_mix_step, paths, weights
from ntlib.mixers.token_shift import last_token, shift_mix
from ntlib.ops.compiled import step_serves

_PREFIX = {4: "time_mix_", 5: "time_mix_", 6: "time_maa_", 7: "x_"}
# The mixture starts as (i / D)^(eta^power) of the current token
_POWER = {4: 1, 5: 1, 6: 3, 7: 4}

# What the compiled step reads. Version 7, without receptance, gives the key's twice and says so.
_STEP = {
    version: paths(
        prefix + "k",
        prefix + ("k" if version == 7 else "r"),
        "key.weight",
        "key.weight" if version == 7 else "receptance.weight",
        "value.weight",
    )
    for version, prefix in _PREFIX.items()
}


@dataclass(frozen=True)
class ChannelMixConfig:
    """The feed-forward layer of one version of RWKV."""

    version: int  # 4, 5 (that is 5.2), 6 or 7
    hidden: int | None = None  # rows of W_k; None: the version's rule
    layer: int = 0  # the initialisation depends on the depth
    n_layers: int = 1

    def build(self, d_model: int) -> "ChannelMix":
        return ChannelMix(d_model, self)


class ChannelMix(Mixer):
    """Eq. (1); state: the last token, (batch, d_model)."""

    def __init__(self, d_model: int, config: ChannelMixConfig):
        super().__init__()
        if config.version not in _PREFIX:
            raise ValueError(f"version must be 4, 5, 6 or 7, got {config.version}")
        depth(config.layer, config.n_layers)  # refuses an impossible layer right here
        self.config, self.d_model = config, d_model
        rule = 4 * d_model if config.version in (4, 7) else int(3.5 * d_model) // 32 * 32
        hidden = config.hidden or rule
        self.mixed = ("k",) if config.version == 7 else ("k", "r")
        for name in self.mixed:
            mixture = nn.Parameter(torch.zeros(1, 1, d_model))
            self.register_parameter(_PREFIX[config.version] + name, mixture)
        self.key = nn.Linear(d_model, hidden, bias=False)
        self.value = nn.Linear(hidden, d_model, bias=False)
        if "r" in self.mixed:
            self.receptance = nn.Linear(d_model, d_model, bias=False)

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """The official start: y = 0, since W_v and W_r are 0 (residual_scale has nothing to do)."""
        version, (_, eta) = self.config.version, depth(self.config.layer, self.config.n_layers)
        current = channel(self.d_model) ** (eta ** _POWER[version])
        for name in self.mixed:
            mixture = getattr(self, _PREFIX[version] + name)
            set_(mixture, current if version < 6 else 1 - current)
        # version 4 scales a matrix with more rows than columns by sqrt(rows / columns)
        gain = max(1.0, self.key.out_features / self.d_model) ** 0.5 if version == 4 else 1.0
        nn.init.orthogonal_(self.key.weight, gain=gain, generator=generator)
        nn.init.zeros_(self.value.weight)
        if "r" in self.mixed:
            nn.init.zeros_(self.receptance.weight)

    def init_state(self, batch_size, capacity=0):
        return self.key.weight.new_zeros(batch_size, self.d_model)

    def forward(self, x, state=None):
        check_input(x, self.d_model)
        return self._mix(*shift_mix(x, state, self._mixtures()[:, None])), last_token(x)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        if not step_serves(x_t):
            return self._mix(*torch.lerp(x_t, state, self._mixtures()).unbind()), x_t
        inputs = arrays(*((state, x_t) if self.config.version < 6 else (x_t, state)))
        y = np.empty_like(inputs[0])
        channel_mix_step(
            *inputs, *weights(self, _STEP[self.config.version]), self.config.version < 7, y
        )
        return torch.from_numpy(y), x_t

    def _mixtures(self) -> Tensor:
        """How much of x_(t-1) is in x^k (and x^r): (1 or 2, 1, d_model)."""
        prefix = _PREFIX[self.config.version]
        mixtures = torch.cat([getattr(self, prefix + name) for name in self.mixed])
        return mixtures if self.config.version >= 6 else 1 - mixtures

    def _mix(self, x_k: Tensor, x_r: Tensor | None = None) -> Tensor:
        y = self.value(F.relu(self.key(x_k)).square())
        return y if x_r is None else torch.sigmoid(self.receptance(x_r)) * y
