"""Timestep normalisation, Megalodon's: a group norm over all tokens read so far.

    mu_t, var_t: mean and variance of the numbers of one group in tokens 1 ... t
    y_t = (x_t - mu_t) / sqrt(var_t + eps) (w + 1) + b                                          (1)

With m_t and s_t the mean and variance of one token's group (Welford, Chan et al.):

    mu_t    = mu_(t-1) + (m_t - mu_(t-1)) / t
    t var_t = (t - 1) var_(t-1) + s_t + (1 - 1 / t) (m_t - mu_(t-1))^2                          (2)

Both are running sums, of terms that do not cancel, so that a sequence is two cumulative sums.

| here     | Megalodon (2404.08801)  | the official code             |
| -------- | ----------------------- | ----------------------------- |
| mu, var  | mu_t, sigma_t^2, Sec. 3 | mean, var of timestep_norm.cc |
| groups   | groups of features      | num_groups, 32 by default     |
| w + 1, b | the affine map          | weight, bias; both start at 0 |

Departure: no learned prior (the code's prior_count is 0, so that its prior counts for nothing). A
state is what counts as read: forward continues from it, exactly.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer, check_input


@dataclass(frozen=True)
class TimestepNormConfig:
    """Defaults as in the official code."""

    groups: int = 32  # each with a mean and variance of its own; 64 from 1.3B parameters on
    eps: float = 1e-5

    def build(self, d_model: int) -> "TimestepNorm":
        return TimestepNorm(d_model, self)


class TimestepNormState(NamedTuple):
    """Mean and variance of the tokens read so far, float32 at least."""

    mean: Tensor  # (batch, groups)
    variance: Tensor  # (batch, groups)
    count: int  # tokens read


class TimestepNorm(Mixer):
    """Eq. (1); state: a TimestepNormState."""

    def __init__(self, d_model: int, config: TimestepNormConfig):
        super().__init__()
        groups = config.groups
        if groups < 1 or d_model % groups or d_model // groups < 2:
            raise ValueError(
                f"groups must divide d_model = {d_model} into two numbers or more (a single one "
                f"has no variance at the first token), got {groups}"
            )
        self.d_model, self.config = d_model, config
        self.weight = nn.Parameter(torch.zeros(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """The identity; there is nothing to draw or to scale."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def init_state(self, batch_size, capacity=0):
        work = torch.promote_types(self.weight.dtype, torch.float32)
        zeros = self.weight.new_zeros(batch_size, self.config.groups, dtype=work)
        return TimestepNormState(zeros, zeros, 0)

    def forward(self, x, state=None):
        check_input(x, self.d_model)
        state = state or self.init_state(x.shape[0])
        grouped = x.to(state.mean.dtype).unflatten(-1, (self.config.groups, -1))
        means, variances, count = _running(grouped, *state)
        scale = torch.rsqrt(variances + self.config.eps)
        normed = ((grouped - means[..., None]) * scale[..., None]).flatten(-2)
        y = torch.addcmul(self.bias, normed.to(x.dtype), self.weight + 1)
        return y, TimestepNormState(means[:, -1], variances[:, -1], count)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        y, state = self.forward(x_t[:, None], state)
        return y[:, 0], state


def _running(
    grouped: Tensor, mean: Tensor, variance: Tensor, count: int
) -> tuple[Tensor, Tensor, int]:
    """(2): means and variances after every token, each (batch, length, groups), and their count."""
    own_variance, own_mean = torch.var_mean(grouped, dim=-1, correction=0)
    t = torch.arange(count + 1, count + grouped.shape[1] + 1, device=grouped.device)
    t = t.to(grouped.dtype)[:, None]
    means = (count * mean[:, None] + own_mean.cumsum(1)) / t
    before = torch.cat([mean[:, None], means[:, :-1]], dim=1)
    terms = own_variance + (1 - 1 / t) * (own_mean - before).square()
    variances = (count * variance[:, None] + terms.cumsum(1)) / t
    return means, variances, count + grouped.shape[1]
