"""The time mix of RWKV-6 ("Finch"): RWKV-5's, with mixtures and decays that depend on the token.

With delta_t = x_(t-1) - x_t and low-rank maps that start at zero,

    z = tanh((x + delta * m_x) W_1)             five groups: for w, k, v, r, g in this order
    x^s = x + delta * (m_s + z_s W_2s)          for each s of them                              (1)
    w_t = exp(-exp(d + tanh(x^w D_1) D_2))      per token and channel                           (2)

The rest, the recurrence with w_t for w, the norm and the gate, is (1) and (2) of rwkv5.

| here          | RWKV-5/6 (2404.05892)      | official checkpoints                             |
| ------------- | -------------------------- | ------------------------------------------------ |
| x^s           | ddlerp_s(x_t, x_(t-1))     |                                                  |
| m_x, m_s      | mu_x, lambda_s of lora_s   | time_maa_x, time_maa_w, _k, _v, _r, _g           |
| W_1, W_2      | A, B of lora_s             | time_maa_w1 (D, 5 x 32), time_maa_w2 (5, 32, D)  |
| d, D_1, D_2   | lambda, A, B of d_t's lora | time_decay, time_decay_w1 (D, 64), time_decay_w2 |

The mixtures' weights multiply x_(t-1): they are 1 minus RWKV-5's. Names, shapes and the
initialisation are the official code's (RWKV-LM, RWKV-v5, x060).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ntlib.mixers.rwkv5 import HeadTimeMix
from ntlib.mixers.rwkv_heads_step_kernel import rwkv6_inputs
from ntlib.mixers.rwkv_init import channel, depth, head_decay, set_
from ntlib.mixers.rwkv_step_kernel import paths, weights
from ntlib.mixers.token_shift import shift_mix

# what the compiled step reads before it does as RWKV-5's
_STEP_INPUTS = paths(
    *("time_maa_x", "time_maa_w", "time_maa_k", "time_maa_v", "time_maa_r", "time_maa_g"),
    *("time_maa_w1", "time_maa_w2", "time_decay", "time_decay_w1", "time_decay_w2"),
)


@dataclass(frozen=True)
class RWKV6Config:
    """RWKV-6's time mix."""

    head_size: int = 64  # N, in all released models
    mix_rank: int = 32  # of each of the five corrections of mixtures; released up to 3B
    decay_rank: int = 64  # of the decay's correction; released up to 3B
    eps: float = 64e-5  # of the norm of heads; see rwkv5
    layer: int = 0  # the initialisation depends on the depth
    n_layers: int = 1

    def build(self, d_model: int) -> "RWKV6":
        return RWKV6(d_model, self)


class RWKV6(HeadTimeMix):
    """Data-dependent token shift and decay; state: a HeadState."""

    def __init__(self, d_model: int, config: RWKV6Config):
        super().__init__(d_model, config)
        self.time_maa_x = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_w = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_k = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_v = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_r = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_g = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_maa_w1 = nn.Parameter(torch.zeros(d_model, 5 * config.mix_rank))
        self.time_maa_w2 = nn.Parameter(torch.zeros(5, config.mix_rank, d_model))
        self.time_decay = nn.Parameter(torch.zeros(1, 1, d_model))
        self.time_decay_w1 = nn.Parameter(torch.zeros(d_model, config.decay_rank))
        self.time_decay_w2 = nn.Parameter(torch.zeros(config.decay_rank, d_model))

    def reset_parameters(self, generator=None, residual_scale=1.0):
        super().reset_parameters(generator, residual_scale)
        rho, eta = depth(self.config.layer, self.config.n_layers)
        current = channel(self.d_model) ** eta
        for mixture in (self.time_maa_x, self.time_maa_w, self.time_maa_k):
            set_(mixture, 1 - current)
        set_(self.time_maa_v, 1 - (current + 0.3 * rho))
        for mixture in (self.time_maa_r, self.time_maa_g):
            set_(mixture, 1 - channel(self.d_model) ** (0.5 * eta))
        set_(self.time_decay, head_decay(self.config.layer, self.config.n_layers, self.d_model))
        for inner in (self.time_maa_w1, self.time_decay_w1):
            nn.init.zeros_(inner)
        for outer in (self.time_maa_w2, self.time_decay_w2):
            nn.init.uniform_(outer, -0.01, 0.01, generator=generator)

    def _project(self, x, last):
        (base,) = shift_mix(x, last, self.time_maa_x[None])
        z = torch.tanh(base.flatten(0, 1) @ self.time_maa_w1)
        z = z.unflatten(1, (5, -1)).transpose(0, 1)  # (5, batch x length, rank)
        fixed = torch.cat(
            [self.time_maa_w, self.time_maa_k, self.time_maa_v, self.time_maa_r, self.time_maa_g]
        )
        mixtures = torch.baddbmm(fixed, z, self.time_maa_w2)  # all five in one batched product
        w, k, v, r, g = shift_mix(x, last, mixtures.unflatten(1, x.shape[:2]))  # (1)
        d = torch.tanh(w @ self.time_decay_w1) @ self.time_decay_w2 + self.time_decay
        log_decay = -d.to(self._work()).exp()  # (2)
        return self.receptance(r), self.key(k), self.value(v), F.silu(self.gate(g)), log_decay

    def _inputs(self, x, last, mixed, decay):
        rwkv6_inputs(x, last, *weights(self, _STEP_INPUTS), mixed, decay)
