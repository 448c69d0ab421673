"""Linear attention as the Linear Transformer defines it: softmax's exponential replaced by a
product of feature maps.

| here          | Linear Transformer (2006.16236)                                     |
| ------------- | ------------------------------------------------------------------- |
| elu_plus_one  | phi(x) = elu(x) + 1, Eq. 7                                          |
| state         | [S_i, Z_i], Eq. 18 and 19: the normaliser is one more value column  |

Rotary positions are left out as in the paper: they would make the feature products negative and the
normaliser vanish.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer, check_heads, check_input, split_heads
from ntlib.ops.linear_attention import linear_attention


@dataclass(frozen=True)
class LinearAttentionConfig:
    """Linear attention with positive features and a normaliser."""

    n_heads: int = 8  # each holds a state of head_dim x (head_dim + 1)

    def build(self, d_model: int) -> "LinearAttention":
        return LinearAttention(d_model, self)


def elu_plus_one(x: Tensor) -> Tensor:
    """phi(x) = elu(x) + 1 > 0, so that every weight phi(q) . phi(k) is positive."""
    return F.elu(x) + 1


class LinearAttention(Mixer):
    """Causal linear attention; state: (batch, n_heads, head_dim, head_dim + 1), constant in
    length."""

    def __init__(self, d_model: int, config: LinearAttentionConfig):
        super().__init__()
        self.d_model, self.n_heads = d_model, config.n_heads
        self.head_dim = check_heads(d_model, self.n_heads)
        self.q, self.k, self.v, self.o = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))

    def reset_parameters(self, generator=None, residual_scale=1.0):
        for linear in (self.q, self.k, self.v):
            nn.init.normal_(linear.weight, std=self.d_model**-0.5, generator=generator)
        nn.init.normal_(self.o.weight, std=residual_scale * self.d_model**-0.5, generator=generator)

    def init_state(self, batch_size, capacity=0):
        shape = (batch_size, self.n_heads, self.head_dim, self.head_dim + 1)
        return self.q.weight.new_zeros(
            shape, dtype=torch.promote_types(self.q.weight.dtype, torch.float32)
        )

    def forward(self, x, state=None):
        check_input(x, self.d_model)
        q, k, v = (
            split_heads(linear(x), self.n_heads).transpose(1, 2)
            for linear in (self.q, self.k, self.v)
        )
        out, state = linear_attention(
            elu_plus_one(q), elu_plus_one(k), v, state=state, normalise=True
        )
        return self.o(out.transpose(1, 2).flatten(2)), state

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        y, state = self.forward(x_t[:, None], state)
        return y[:, 0], state
