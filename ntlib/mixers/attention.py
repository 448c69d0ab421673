"""Softmax attention with rotary positions and a preallocated key-value cache: the baseline of the
whole book. With a window it is local attention, with a stride it is strided attention.

| here          | paper                                                                          |
| ------------- | ------------------------------------------------------------------------------ |
| q, k, v, o    | W^Q ... W^O, Attention Is All You Need (1706.03762), Sec. 3.2.2; no bias       |
| n_kv_heads    | G, the groups of GQA (2305.13245); 1 is multi-query attention (1911.02150)     |
| turns         | R_m of RoFormer (2104.09864), Eq. 34                                           |
| absolute      | PE of 1706.03762, Sec. 3.5, with sines and cosines in turn; added in every     |
|               | layer to what the maps read, where the paper adds it once, to the embedding    |
| xpos_scales   | zeta^(n / 512) of xPos (2212.10554), Algorithm 1                               |
| window        | w, the tokens that Longformer's sliding window (2004.05150, Sec. 3.1) attends  |
|               | to, here all of them to the left, the present included                         |
| stride        | l of Sparse Transformers (1904.10509), Sec. 4.2: half of the heads attend to   |
|               | the last l tokens, half to every l-th; see ntlib.ops.strided_attention         |

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
from ntlib.ops.rotary import rotary_frequencies, rotary_turns, rotate, xpos_scales
from ntlib.ops.strided_attention import strided_attention


@dataclass(frozen=True)
class AttentionConfig:
    """Multi-head, grouped-query or multi-query attention."""

    n_heads: int = 8  # query heads
    n_kv_heads: int | None = (
        None  # None: as many as query heads; fewer shrink the cache by the same factor
    )
    rope_base: float | None = 10000.0  # RoFormer's; longer contexts use larger ones; None: no turns
    # beside the turns, scores fade with the distance (xPos, 2212.10554), each pair of channels at
    # its own rate per this many tokens; the paper's is 512; None: they do not fade
    xpos_base: float | None = None
    absolute: bool = False  # sinusoids of the position instead of turns; rope_base must be None
    window: int | None = None  # tokens attended to, the present one included; None: all
    stride: int | None = None  # of strided attention, whose cache grows; heads must be even then

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
        if config.xpos_base is not None and config.rope_base is None:
            raise ValueError("xpos_base needs turns: rope_base must be a number, got None")
        if config.absolute and config.rope_base is not None:
            raise ValueError(f"rope_base must be None with absolute, got {config.rope_base}")
        for name, value in (("window", config.window), ("stride", config.stride)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {value}")
        if config.window and config.stride:
            raise ValueError("window must be None where there is a stride: it has its own")
        if config.stride and (self.n_heads % 2 or self.n_kv_heads % 2):
            raise ValueError(
                "n_heads and n_kv_heads must be even with a stride, "
                f"got {self.n_heads} and {self.n_kv_heads}"
            )
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
        elif self.config.stride:
            cache = append(state, k, v) if state else KVCache(k, v, length)
            attended = strided_attention(q, *filled(cache), self.config.stride)
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
        if self.config.stride:
            return self.o(
                strided_attention(q, *filled(cache), self.config.stride).flatten(1)
            ), cache
        # query heads that share keys are stacked as rows of one query, so that the cache is read
        # once per group
        q = q.reshape(-1, self.n_kv_heads, self.n_heads // self.n_kv_heads, self.head_dim)
        return self.o(F.scaled_dot_product_attention(q, *filled(cache)).flatten(1)), cache

    def _project(self, x, start):
        if self.config.absolute:
            frequencies = rotary_frequencies(self.d_model, device=x.device)
            waves = torch.view_as_real(rotary_turns(frequencies, start, x.shape[1]))
            x = x + waves.flatten(1).to(x.dtype)
        q = split_heads(self.q(x), self.n_heads)
        k, v = (split_heads(part(x), self.n_kv_heads) for part in (self.k, self.v))
        if (base := self.config.rope_base) is not None:
            frequencies = rotary_frequencies(self.head_dim, base=base, device=x.device)
            turns = rotary_turns(frequencies, start, x.shape[1])[:, None]  # the same for all heads
            scales = 1.0
            if self.config.xpos_base is not None:
                length = x.shape[1]
                scales = xpos_scales(self.head_dim, self.config.xpos_base, start, length)[:, None]
            q, k = rotate(q, turns * scales), rotate(k, turns / scales)
        return tuple(part.transpose(1, 2) for part in (q, k, v))
