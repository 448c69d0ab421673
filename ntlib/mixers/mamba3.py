"""Mamba-3's mixer, one input and one output per channel (SISO): Mamba-2's with a trapezoidal rule,
states that turn, and no convolution.

    z, x, B, C, dt, a, trap, angle = W_in u               Delta = softplus(dt + dt_bias)
    alpha_t = exp(Delta_t A_t)                            lambda_t = sigmoid(trap_t)
    theta_t = theta_{t-1} + Delta_t pi tanh(angle_t)      k_t, q_t: B_t, C_t, turned by theta_t
    S_t = alpha_t (S_{t-1} + (1 - lambda_t) Delta_t k_{t-1} x_{t-1}^T) + lambda_t Delta_t k_t x_t^T
    y_t = S_t^T q_t + D x_t                               o = W_out (y * silu(z))               (1)

| here          | Mamba-3 (2603.15569)                                                            |
| ------------- | ------------------------------------------------------------------------------- |
| k, q          | B, C after norms, biases and the rotation that replaces a complex state         |
| alpha, S      | alpha, h (transposed)                                                           |
| lambda        | lambda of the exponential-trapezoidal rule; 1 is Mamba-2's rule                 |
| own, before   | gamma = lambda Delta, and beta / alpha = (1 - lambda) Delta                     |
| A             | the released code's, dependent on the token: -f(a), f(a) = 1 + a or 1 / (1 - a) |

A state that turns is a complex one: the turns of all tokens between two are the difference of their
theta, so that B and C take them over, as in RoPE, and (1) stays linear attention. So does the
trapezoidal rule: U_t = S_t - own_t k_t x_t^T, what a token finds before its own part is added, is

    U_t = alpha_t U_{t-1} + alpha_t (own_{t-1} + before_t) k_{t-1} x_{t-1}^T                    (2)

linear attention with keys and values of the token before.

Parameters are named as in the official code (mamba_ssm/modules/mamba3.py). It also has several
inputs and outputs per channel (MIMO) and a norm before W_out, which are not here.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.mamba_init import draw_step_bias, draw_uniform
from ntlib.mixers.protocol import Mixer, check_heads, check_input, split_heads
from ntlib.ops.linear_attention import linear_attention, step
from ntlib.ops.rotary import rotate


@dataclass(frozen=True)
class Mamba3Config:
    """Defaults as in the released code."""

    d_state: int = 128  # N, rows of a head's state; even
    head_dim: int = 64  # P, columns of a head's state
    expand: int = 2  # channels inside are expand * d_model
    n_groups: int = 1  # groups of heads that share B and C, but for their biases
    rope_fraction: float = 0.5  # of the rows that turn, in pairs; the others only decay
    a_floor: float = 1e-4  # -A is no smaller: a token forgets at least a little
    dt_min: float = 0.001  # Delta starts log-uniform between these
    dt_max: float = 0.1
    dt_init_floor: float = 1e-4  # no Delta starts below: softplus would hardly move it
    eps: float = 1e-5  # of the norms

    def build(self, d_model: int) -> "Mamba3":
        return Mamba3(d_model, self)


class Mamba3State(NamedTuple):
    """What a token leaves to those after it; float32 at least."""

    angle: Tensor  # (batch, n_heads, pairs), theta modulo 2 pi
    ssm: Tensor  # (batch, n_heads, d_state, head_dim)
    key: Tensor  # (batch, n_heads, d_state), the last k ...
    value: Tensor  # (batch, n_heads, head_dim), ... and x


class Mamba3(Mixer):
    """(1); state: a Mamba3State of constant size."""

    def __init__(self, d_model: int, config: Mamba3Config):
        super().__init__()
        self.d_model, self.config = d_model, config
        self.d_inner = config.expand * d_model
        self.n_heads = check_heads(self.d_inner, config.head_dim, "head_dim", "expand * d_model")
        check_heads(self.n_heads, config.n_groups, "n_groups", "n_heads")
        self.pairs = int(config.d_state * config.rope_fraction) // 2
        if config.d_state % 2 or not 0 < 2 * self.pairs <= config.d_state:
            raise ValueError(
                "d_state must be even and rope_fraction in (0, 1] such that one pair of d_state "
                f"turns; got d_state = {config.d_state}, rope_fraction = {config.rope_fraction}"
            )
        shared = config.n_groups * config.d_state
        self.widths = (self.d_inner,) * 2 + (shared,) * 2 + (self.n_heads,) * 3 + (self.pairs,)
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=False)
        self.dt_bias, self.D = (nn.Parameter(torch.empty(self.n_heads)) for _ in range(2))
        # theirs have a dimension for the inputs per channel
        self.B_bias, self.C_bias = (
            nn.Parameter(torch.empty(self.n_heads, 1, config.d_state)) for _ in range(2)
        )
        self.B_norm, self.C_norm = (nn.RMSNorm(config.d_state, eps=config.eps) for _ in range(2))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator=None, residual_scale=1.0):
        for layer in (self.in_proj, self.out_proj):
            draw_uniform(layer.weight, layer.in_features, generator)
        self.out_proj.weight.mul_(residual_scale)
        c = self.config
        draw_step_bias(self.dt_bias, (c.dt_min, c.dt_max), c.dt_init_floor, generator)
        for parameter in (self.D, self.B_bias, self.C_bias, self.B_norm.weight, self.C_norm.weight):
            parameter.fill_(1.0)

    def init_state(self, batch_size, capacity=0):
        weight, rows = self.in_proj.weight, self.config.d_state
        dtype = torch.promote_types(weight.dtype, torch.float32)
        shapes = (self.pairs,), (rows, self.config.head_dim), (rows,), (self.config.head_dim,)
        return Mamba3State(
            *(weight.new_zeros(batch_size, self.n_heads, *shape, dtype=dtype) for shape in shapes)
        )

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of linear attention's forms."""
        check_input(x, self.d_model)
        state = state or self.init_state(len(x))
        z, v, q, k, log_decay, own, before, turning = self._parts(x)
        # in float64: the sum grows with the length
        angle = state.angle[:, None].double() + turning.double().cumsum(1)
        q, k = self._turn(q, angle), self._turn(k, angle)
        gain = log_decay.exp() * (before + F.pad(own[:, :-1], (0, 0, 1, 0)))
        k_before = torch.cat([state.key[:, None], k[:, :-1]], dim=1)
        v_before = torch.cat([state.value[:, None], v[:, :-1]], dim=1) * gain[..., None]
        heads_first = (part.transpose(1, 2) for part in (q, k_before, v_before, log_decay))
        y, ssm = linear_attention(*heads_first, state=state.ssm, form=form)  # (2)
        y = y.transpose(1, 2) + (own * (q * k).sum(-1) + self.D)[..., None] * v
        last = k[:, -1], v[:, -1]
        ssm = ssm + own[:, -1, :, None, None] * (last[0][..., None] * last[1][..., None, :])
        return self._read_out(y, z), Mamba3State(_wrap(angle[:, -1]).to(ssm.dtype), ssm, *last)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        z, v, q, k, log_decay, own, before, turning = self._parts(x_t)
        angle = _wrap(state.angle + turning)
        q, k = self._turn(q, angle), self._turn(k, angle)
        known = state.ssm + state.key[..., None] * (before[..., None] * state.value)[..., None, :]
        y, ssm = step(q, k, own[..., None] * v, log_decay.exp()[..., None], known)
        return self._read_out(y + self.D[:, None] * v, z), Mamba3State(angle, ssm, k, v)

    def _parts(self, u: Tensor) -> tuple[Tensor, ...]:
        """(..., d_model) -> z (..., d_inner); v, q, k of every head, (..., n_heads, .), not turned
        yet; log alpha, lambda Delta and (1 - lambda) Delta (..., n_heads); what theta gains
        (..., n_heads, pairs)."""
        work = torch.promote_types(u.dtype, torch.float32)  # bfloat16 has few decays near 1
        z, x, B, C, dt, a, trap, angle = (
            part.to(work) for part in self.in_proj(u).split(self.widths, dim=-1)
        )
        delta = F.softplus(dt + self.dt_bias.to(work))
        rate = a.clamp(min=0) + (1 - a.clamp(max=0)).reciprocal()
        log_decay = -delta * rate.clamp(min=self.config.a_floor)
        share = trap.sigmoid()
        turning = delta[..., None] * (math.pi * angle.tanh())[..., None, :]
        q = self._per_head(C, self.C_norm, self.C_bias)
        k = self._per_head(B, self.B_norm, self.B_bias)
        return (
            z, split_heads(x, self.n_heads), q, k, log_decay, share * delta, (1 - share) * delta,
            turning,
        )  # fmt: skip

    def _per_head(self, part: Tensor, norm: nn.RMSNorm, bias: Tensor) -> Tensor:
        groups = part.unflatten(-1, (self.config.n_groups, 1, -1))
        groups = F.rms_norm(groups, groups.shape[-1:], eps=norm.eps) * norm.weight
        heads = groups.expand(*groups.shape[:-2], self.n_heads // self.config.n_groups, -1)
        return heads.flatten(-3, -2) + bias[:, 0]

    def _turn(self, x: Tensor, angle: Tensor) -> Tensor:
        """The first pairs of channels by `angle`; the others stay."""
        turns = torch.polar(torch.ones_like(angle), angle)
        turned = rotate(x[..., : 2 * self.pairs], turns)
        return torch.cat([turned, x[..., 2 * self.pairs :]], dim=-1)

    def _read_out(self, y: Tensor, z: Tensor) -> Tensor:
        y = y.flatten(-2) * F.silu(z)
        return self.out_proj(y.to(self.out_proj.weight.dtype))


def _wrap(angle: Tensor) -> Tensor:
    """Into [0, 2 pi): what does not grow keeps its digits."""
    return angle.remainder(2 * math.pi)
