"""The time mix of RWKV-5.2 ("Eagle"): a matrix of memory per head instead of RWKV-4's numbers.

    r, k, v = W_r x^r, W_k x^k, W_v x^v                    g = silu(W_g x^g)
    y_t = (S_(t-1) + diag(u) k_t v_t^T)^T r_t              S_t = diag(w) S_(t-1) + k_t v_t^T     (1)
    o = W_o (norm(y) * g)                                                                        (2)

x^r, x^k, x^v, x^g are mixtures of x_t and x_(t-1), see token_shift; (1) holds for every head.

| here         | RWKV-5/6 (2404.05892)                    | official checkpoints             |
| ------------ | ---------------------------------------- | -------------------------------- |
| x^r, ...     | lerp of x_t and x_(t-1)                  | time_mix_r, _k, _v, _g: of x_t   |
| r, k, v, g   | r_t, k_t, v_t, g_t                       | receptance, key, value, gate     |
| w            | exp(-exp(omega)), per head and channel   | omega: time_decay (heads, N)     |
| u            | u                                        | time_faaaa (heads, N)            |
| norm         | LayerNorm of each head on its own        | ln_x, a GroupNorm, eps 64e-5     |
| S            | its wkv state, (N, N)                    |                                  |

Unlike RWKV-4: r has no sigmoid, no sum of weights divides y (the norm sets its size instead), a
gate follows. eps is 1e-5 for y / 8, which the code divides by before the norm: 64e-5 for y itself.

Names, shapes and the initialisation are the official code's (RWKV-LM, RWKV-v5, x052).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer, check_heads, check_input, split_heads
from ntlib.mixers.rwkv_heads_step_kernel import heads_step, rwkv5_inputs
from ntlib.mixers.rwkv_init import channel, depth, head_bonus, head_decay, set_
from ntlib.mixers.rwkv_step_kernel import arrays, paths, weights
from ntlib.mixers.token_shift import last_token, shift_mix
from ntlib.ops.compiled import step_serves
from ntlib.ops.linear_attention import linear_attention, step

# what the compiled step reads
_STEP = paths(
    *("key.weight", "value.weight", "receptance.weight", "gate.weight", "output.weight"),
    *("time_faaaa", "ln_x.weight", "ln_x.bias"),
)
_STEP_INPUTS = paths("time_mix_k", "time_mix_v", "time_mix_r", "time_mix_g", "time_decay")


@dataclass(frozen=True)
class RWKV5Config:
    """RWKV-5.2's time mix."""

    head_size: int = 64  # N, in all released models
    eps: float = 64e-5  # of the norm of heads; see above
    layer: int = 0  # the initialisation depends on the depth
    n_layers: int = 1

    def build(self, d_model: int) -> "RWKV5":
        return RWKV5(d_model, self)


class HeadState(NamedTuple):
    """State of versions 5 and 6, constant in length."""

    last: Tensor  # (batch, d_model): the last token
    memory: Tensor  # S of every head, (batch, heads, head_size, head_size), at least float32


class HeadTimeMix(Mixer):
    """What versions 5 and 6 share: (1), (2) and their matrices. A version adds how r, k, v, g and
    the decay come from x."""

    def __init__(self, d_model: int, config):
        super().__init__()
        depth(config.layer, config.n_layers)  # refuses an impossible layer right here
        self.config, self.d_model = config, d_model
        self.n_heads = check_heads(d_model, config.head_size, "head_size")
        self.time_faaaa = nn.Parameter(torch.zeros(self.n_heads, config.head_size))
        self.receptance = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.gate = nn.Linear(d_model, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.ln_x = nn.GroupNorm(self.n_heads, d_model, eps=config.eps)

    def _project(
        self, x: Tensor, last: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(batch, length, d_model) and the token before it -> r, k, v, silu(g) of the same shape,
        and log w: the same or (d_model,)."""
        raise NotImplementedError

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """The official start: o = 0, since W_o is 0 (residual_scale has nothing to do)."""
        layer, n_layers = self.config.layer, self.config.n_layers
        set_(self.time_faaaa, head_bonus(layer, n_layers, self.d_model))
        for linear, gain in (
            (self.receptance, 1),
            (self.key, 0.1),
            (self.value, 1),
            (self.gate, 0.1),
        ):
            nn.init.orthogonal_(linear.weight, gain=gain, generator=generator)
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / n_layers) ** 0.7)
        nn.init.zeros_(self.ln_x.bias)

    def init_state(self, batch_size, capacity=0):
        last = self.key.weight.new_zeros(batch_size, self.d_model)
        shape = (batch_size, self.n_heads, self.config.head_size, self.config.head_size)
        return HeadState(last, last.new_zeros(shape, dtype=self._work()))

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of the operator's forms."""
        check_input(x, self.d_model)
        last, memory = state or (None, None)
        r, k, v, g, log_decay = self._project(x, last)
        heads = lambda y: split_heads(y, self.n_heads).transpose(1, 2)  # noqa: E731
        fixed = log_decay.dim() == 1
        out, memory = linear_attention(
            heads(r),
            heads(k),
            heads(v),
            split_heads(log_decay, self.n_heads) if fixed else heads(log_decay),
            bonus=self.time_faaaa,
            state=memory,
            form=form,
        )
        y = self._read_out(out.transpose(1, 2).flatten(2), g)
        return y, HeadState(last_token(x), memory)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        if step_serves(x_t):
            return self._compiled_step(x_t, state)
        r, k, v, g, log_decay = (
            y.squeeze(1) if y.dim() == 3 else y for y in self._project(x_t[:, None], state.last)
        )
        r, k, v = (split_heads(y.to(state.memory.dtype), self.n_heads) for y in (r, k, v))
        decay = split_heads(log_decay.exp(), self.n_heads)
        out, memory = step(r, k, v, decay, state.memory, self.time_faaaa.to(r.dtype))
        return self._read_out(out.flatten(1).to(x_t.dtype), g), HeadState(x_t, memory)

    def _inputs(self, x: np.ndarray, last: np.ndarray, mixed: np.ndarray, decay: np.ndarray):
        """For one token, compiled: write the inputs of k, v, r, g, (4, batch, d_model), and w,
        (batch, d_model)."""
        raise NotImplementedError

    def _compiled_step(self, x_t: Tensor, state: HeadState) -> tuple[Tensor, HeadState]:
        x, last, memory = arrays(x_t, state.last, state.memory)
        mixed, decay = np.empty((4, *x.shape), x.dtype), np.empty_like(x)
        self._inputs(x, last, mixed, decay)
        y, final = np.empty_like(x), np.empty_like(memory)
        heads_step(mixed, decay, *weights(self, _STEP), self.config.eps, memory, final, y)
        return torch.from_numpy(y), HeadState(x_t, torch.from_numpy(final))

    def _read_out(self, y: Tensor, g: Tensor) -> Tensor:
        """Eq. (2)."""
        normal = self.ln_x(y.flatten(0, -2)).view(y.shape)
        return self.output(normal * g)

    def _work(self) -> torch.dtype:
        # bfloat16 has no decay between 0.996 and 1
        return torch.promote_types(self.key.weight.dtype, torch.float32)


class RWKV5(HeadTimeMix):
    """Eq. (1) and (2) with fixed mixtures and decays; state: a HeadState."""

    def __init__(self, d_model: int, config: RWKV5Config):
        super().__init__(d_model, config)
        self.time_decay = nn.Parameter(torch.zeros(self.n_heads, config.head_size))
        self.time_mix_k = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_mix_v = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_mix_r = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_mix_g = nn.Parameter(torch.zeros(1, 1, d_model))

    def reset_parameters(self, generator=None, residual_scale=1.0):
        super().reset_parameters(generator, residual_scale)
        rho, eta = depth(self.config.layer, self.config.n_layers)
        set_(self.time_decay, head_decay(self.config.layer, self.config.n_layers, self.d_model))
        set_(self.time_mix_k, channel(self.d_model) ** eta)
        set_(self.time_mix_v, channel(self.d_model) ** eta + 0.3 * rho)
        for mixture in (self.time_mix_r, self.time_mix_g):
            set_(mixture, channel(self.d_model) ** (0.5 * eta))

    def _project(self, x, last):
        mixtures = torch.cat([self.time_mix_r, self.time_mix_k, self.time_mix_v, self.time_mix_g])
        r, k, v, g = shift_mix(x, last, 1 - mixtures[:, None])
        log_decay = -self.time_decay.flatten().to(self._work()).exp()
        return self.receptance(r), self.key(k), self.value(v), F.silu(self.gate(g)), log_decay

    def _inputs(self, x, last, mixed, decay):
        rwkv5_inputs(x, last, *weights(self, _STEP_INPUTS), mixed, decay)
