"""Softmax attention with rotary positions and a preallocated key-value cache: the baseline of the
whole book. With a window it is local attention.

| here          | paper                                                                          |
| ------------- | ------------------------------------------------------------------------------ |
| q, k, v, o    | W^Q ... W^O, Attention Is All You Need (1706.03762), Sec. 3.2.2; no bias       |
| n_kv_heads    | G, the groups of GQA (2305.13245); 1 is multi-query attention (1911.02150)     |
| turns         | R_m of RoFormer (2104.09864), Eq. 34                                           |
| window        | w, the tokens that Longformer's sliding window (2004.05150, Sec. 3.1) attends  |
|               | to, here all of them to the left, the present included                         |

Weights are those of a Llama layer, except that rotated pairs are neighbouring channels (see
ntlib.ops.rotary). With a window the cache is a ring: token t lies in slot t mod window.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ntlib.mixers.kv_cache import KVCache, append, append_to_ring, filled, last_in_ring, with_past
from ntlib.mixers.protocol import Mixer, check_heads, check_input, split_heads
from ntlib.ops.local_attention import local_attention
from ntlib.ops.rotary import rotary_frequencies, rotary_turns, rotate


@dataclass(frozen=True)
class AttentionConfig:
    """Multi-head, grouped-query or multi-query attention."""

    n_heads: int = 8  # query heads
    n_kv_heads: int | None = (
        None  # None: as many as query heads; fewer shrink the cache by the same factor
    )
    rope_base: float | None = 10000.0  # RoFormer's; longer contexts use larger ones; None: no turns
    window: int | None = None  # tokens attended to, the present one included; None: all

    def build(self, d_model: int) -> "Attention":
        return Attention(d_model, self)


class Attention(Mixer):
    """Causal softmax attention; state: a KVCache that grows with length, up to the window."""

    def __init__(self, d_model: int, config: AttentionConfig):
        super().__init__()
        self.config, self.d_model = config, d_model
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads or config.n_heads
        self.head_dim = check_heads(d_model, self.n_heads)
        check_heads(self.n_heads, self.n_kv_heads, "n_kv_heads", "n_heads")
        if config.window is not None and config.window < 1:
            raise ValueError(f"window must be at least 1 or None, got {config.window}")
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.k = nn.Linear(d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.o = nn.Linear(d_model, d_model, bias=False)

    def reset_parameters(self, generator=None, residual_scale=1.0):
        for linear in (self.q, self.k, self.v):
            nn.init.normal_(linear.weight, std=self.d_model**-0.5, generator=generator)
        nn.init.normal_(self.o.weight, std=residual_scale * self.d_model**-0.5, generator=generator)

    def init_state(self, batch_size, capacity=0):
        room = min(capacity, self.config.window or capacity)
        shape = (batch_size, self.n_kv_heads, room, self.head_dim)
        return KVCache(self.k.weight.new_zeros(shape), self.k.weight.new_zeros(shape), 0)

    def forward(self, x, state=None):
        check_input(x, self.d_model)
        start, length = (state.length if state else 0), x.shape[1]
        q, k, v = self._project(x, start)
        if self.config.window:
            keys, values = with_past(state, k, v, self.config.window) if start else (k, v)
            attended = local_attention(q, keys, values, self.config.window)
            cache = last_in_ring(keys, values, start + length, self.config.window)
        elif start == 0:
            attended = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=self.n_kv_heads < self.n_heads
            )
            cache = append(state, k, v) if state else KVCache(k, v, length)
        else:
            cache = append(state, k, v)
            # is_causal would align the mask to the first key; these queries sit at the end of the
            # keys
            mask = torch.ones(length, cache.length, dtype=torch.bool, device=x.device).tril(start)
            attended = F.scaled_dot_product_attention(
                q, *filled(cache), attn_mask=mask, enable_gqa=self.n_kv_heads < self.n_heads
            )
        return self.o(attended.transpose(1, 2).flatten(2)), cache

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        q, k, v = self._project(x_t[:, None], state.length)
        if self.config.window:
            cache = append_to_ring(state, k, v, self.config.window)
        else:
            cache = append(state, k, v)
        # query heads that share keys are stacked as rows of one query, so that the cache is read
        # once per group
        q = q.reshape(-1, self.n_kv_heads, self.n_heads // self.n_kv_heads, self.head_dim)
        return self.o(F.scaled_dot_product_attention(q, *filled(cache)).flatten(1)), cache

    def _project(self, x, start):
        q = split_heads(self.q(x), self.n_heads)
        k, v = (split_heads(part(x), self.n_kv_heads) for part in (self.k, self.v))
        if (base := self.config.rope_base) is not None:
            frequencies = rotary_frequencies(self.head_dim, base=base, device=x.device)
            turns = rotary_turns(frequencies, start, x.shape[1])[:, None]  # the same for all heads
            q, k = rotate(q, turns), rotate(k, turns)
        return tuple(part.transpose(1, 2) for part in (q, k, v))
