"""Mamba-2's mixer: Mamba's, with one decay per head instead of one per channel and state; that
makes its recurrence linear attention.

    z, x, B, C, dt = W_in u                      x, B, C <- silu(conv(x, B, C))
    Delta = softplus(dt + dt_bias)               S_t = exp(Delta_t A) S_{t-1} + B_t (Delta_t x_t)^T
    y_t = S_t^T C_t + D x_t                      o = W_out RMSNorm(y * silu(z))                 (1)

| here             | Mamba-2 (2405.21060)                                                        |
| ---------------- | --------------------------------------------------------------------------- |
| in_proj          | the parallel linear map of Fig. 6 (right): rows of z, x, B, C, dt           |
| conv1d           | conv of Fig. 6; it mixes x, B and C                                         |
| q, k, v          | C, B, Delta x of its duality with attention, Sec. 3 to 5                    |
| heads            | of size P = head_dim; all heads of a group share B and C, Sec. 7.2          |
| decay            | exp(Delta A), scalar times identity for every head, A = -exp(A_log)         |
| norm             | N of Fig. 6; after the gate, over d_inner / n_groups channels               |

Parameters are named as in the official code (mamba_ssm/modules/mamba2.py) and in transformers, so
that their checkpoints fit as they are. S is stored as (d_state, head_dim), theirs is transposed.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.mamba2_step_kernel import mamba2_step
from ntlib.mixers.mamba_init import draw_step_bias, draw_uniform
from ntlib.mixers.protocol import Mixer, check_heads, check_input
from ntlib.mixers.rwkv_step_kernel import arrays
from ntlib.ops.compiled import step_serves
from ntlib.ops.linear_attention import linear_attention, step
from ntlib.ops.short_conv import short_conv, short_conv_step


@dataclass(frozen=True)
class Mamba2Config:
    """Defaults as in the released code and all published models."""

    d_state: int = 128  # N, rows of a head's state; Mamba has 16
    head_dim: int = 64  # P, columns of a head's state
    expand: int = 2  # channels inside are expand * d_model
    n_groups: int = 1  # groups of heads that share B and C
    d_conv: int = 4  # tokens that the convolution sees
    a_min: float = 1.0  # -A starts uniform between these
    a_max: float = 16.0
    dt_min: float = 0.001  # Delta starts log-uniform: a head remembers 1 / (A Delta) tokens
    dt_max: float = 0.1
    dt_init_floor: float = 1e-4  # no Delta starts below: softplus would hardly move it
    eps: float = 1e-5  # of the norm

    def build(self, d_model: int) -> "Mamba2":
        return Mamba2(d_model, self)


class Mamba2State(NamedTuple):
    """What a token leaves to those after it; float32 at least."""

    conv: Tensor  # (batch, d_conv - 1, d_inner + 2 n_groups d_state), oldest input first
    ssm: Tensor  # (batch, n_heads, d_state, head_dim)


class GatedNorm(nn.Module):
    """RMSNorm(y * silu(z)) over groups of channels; holds the weight under its published name."""

    def __init__(self, width: int, n_groups: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.n_groups, self.eps = n_groups, eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gated = (y * F.silu(z)).unflatten(-1, (self.n_groups, -1))
        return F.rms_norm(gated, gated.shape[-1:], eps=self.eps).flatten(-2) * self.weight


class Mamba2(Mixer):
    """(1); state: a Mamba2State of constant size."""

    def __init__(self, d_model: int, config: Mamba2Config):
        super().__init__()
        self.d_model, self.config = d_model, config
        self.d_inner, self.d_state = config.expand * d_model, config.d_state
        self.n_heads = check_heads(self.d_inner, config.head_dim, "head_dim", "expand * d_model")
        check_heads(self.n_heads, config.n_groups, "n_groups", "n_heads")
        self.d_shared = config.n_groups * config.d_state  # of B, and of C
        self.d_mixed = self.d_inner + 2 * self.d_shared  # channels of the convolution
        rows = self.d_inner + self.d_mixed + self.n_heads
        self.in_proj = nn.Linear(d_model, rows, bias=False)
        # holds the parameters under their published names; short_conv computes
        self.conv1d = nn.Conv1d(self.d_mixed, self.d_mixed, config.d_conv, groups=self.d_mixed)
        self.dt_bias, self.A_log, self.D = (
            nn.Parameter(torch.empty(self.n_heads)) for _ in range(3)
        )
        self.norm = GatedNorm(self.d_inner, config.n_groups, config.eps)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator=None, residual_scale=1.0):
        for layer in (self.in_proj, self.out_proj):
            draw_uniform(layer.weight, layer.in_features, generator)
        self.out_proj.weight.mul_(residual_scale)
        for parameter in self.conv1d.parameters():
            draw_uniform(parameter, self.config.d_conv, generator)
        decays = torch.empty_like(self.A_log, dtype=torch.float64)
        decays.uniform_(self.config.a_min, self.config.a_max, generator=generator)
        self.A_log.copy_(decays.log())
        c = self.config
        draw_step_bias(self.dt_bias, (c.dt_min, c.dt_max), c.dt_init_floor, generator)
        self.D.fill_(1.0)
        self.norm.weight.fill_(1.0)

    def init_state(self, batch_size, capacity=0):
        weight = self.in_proj.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        conv = weight.new_zeros(batch_size, self.config.d_conv - 1, self.d_mixed, dtype=dtype)
        shape = (batch_size, self.n_heads, self.d_state, self.config.head_dim)
        return Mamba2State(conv, weight.new_zeros(shape, dtype=dtype))

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of linear attention's forms."""
        check_input(x, self.d_model)
        conv, ssm = state or (None, None)
        # three products, not one cut in three: the convolution and the gate read whole arrays
        widths = (self.d_inner, self.d_mixed, self.n_heads)
        z, mixed, dt = (F.linear(x, weight) for weight in self.in_proj.weight.split(widths))
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        mixed, conv = short_conv(mixed, taps, bias, state=conv, activation="silu")
        q, k, v, x_heads, log_decay = self._heads(mixed, dt)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        log_decay = log_decay.transpose(1, 2)
        y, ssm = linear_attention(q, k, v, log_decay, state=ssm, form=form)
        y = torch.addcmul(y.transpose(1, 2), self.D[:, None], x_heads).flatten(2)
        return self.out_proj(self.norm(y, z).to(x.dtype)), Mamba2State(conv, ssm)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        if step_serves(x_t):
            return self._compiled_step(x_t, state)
        widths = (self.d_inner, self.d_mixed, self.n_heads)
        z, mixed, dt = self.in_proj(x_t).split(widths, dim=-1)
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        mixed, conv = short_conv_step(mixed, taps, bias, state.conv, "silu")
        q, k, v, x_heads, log_decay = self._heads(mixed, dt)
        work = state.ssm.dtype
        q, k, v = q.to(work), k.to(work), v.to(work)
        y, ssm = step(q, k, v, log_decay.exp()[..., None], state.ssm)
        y = (y + self.D[:, None] * x_heads).flatten(1)
        return self.out_proj(self.norm(y, z).to(x_t.dtype)), Mamba2State(conv, ssm)

    def _compiled_step(self, x_t: Tensor, state: Mamba2State) -> tuple[Tensor, Mamba2State]:
        new = Mamba2State(torch.empty_like(state.conv), torch.empty_like(state.ssm))
        y = torch.empty_like(x_t)
        mamba2_step(
            *arrays(x_t, self.in_proj.weight, self.conv1d.weight[:, 0], self.conv1d.bias),
            *arrays(self.dt_bias, self.A_log, self.D, self.norm.weight),
            self.config.eps,
            *arrays(self.out_proj.weight, state.conv, state.ssm, new.conv, new.ssm, y),
        )
        return y, new

    def _heads(self, mixed: Tensor, dt: Tensor) -> tuple[Tensor, ...]:
        """(..., d_mixed) and (..., n_heads) -> C, B and Delta x of every head, (..., n_heads, .),
        their x, and Delta A, (..., n_heads)."""
        x, B, C = mixed.split((self.d_inner, self.d_shared, self.d_shared), dim=-1)
        x = x.unflatten(-1, (self.n_heads, -1))
        heads = self.n_heads // self.config.n_groups
        # views: no head gets a copy of its own where there is one group
        B, C = (
            part.unflatten(-1, (self.config.n_groups, 1, -1))
            .expand(*part.shape[:-1], -1, heads, -1)
            .flatten(-3, -2)
            for part in (B, C)
        )
        work = torch.promote_types(dt.dtype, torch.float32)  # bfloat16 has few decays near 1
        delta = F.softplus(dt.to(work) + self.dt_bias.to(work))
        return C, B, delta[..., None] * x, x, -self.A_log.to(work).exp() * delta
