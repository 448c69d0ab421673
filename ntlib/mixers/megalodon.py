"""Megalodon's gated attention, and its block with the two-hop residual.

    x'  = timestep_norm(x)              mx = rms_norm(CEMA(x'))       v = silu(W_v x')          (1)
    z   = rms_norm(W_z mx) per head     q, k = z * (gamma + 1) / sqrt(d_k) + beta               (2)
    o   = softmax(rope(q) rope(k)^T) v, per head and inside chunks                              (3)
    y   = x + W_h1 mx + W_h2 (silu(W_r mx) * o)                                                 (4)
    out = x + FFN(layer_norm(y))                                                                (5)

(5) is the two-hop residual: it adds x, not y, so that the stream is passed on from block to block.

| here          | Megalodon (2404.08801), Sec. 3 | the official code                     |
| ------------- | ------------------------------ | ------------------------------------- |
| timestep_norm | Timestep Norm                  | timenorm (ntlib.mixers.timestep_norm) |
| CEMA          | CEMA                           | cema (ntlib.mixers.complex_ema)       |
| z, q, k       | Z', Q, K, normalised attention | wz, znorm, gamma, beta                |
| v, r, o       | V, gamma, O                    | wv, wr, inner_attention               |
| y             | Y^                             | out of MovingAverageGatedAttention    |
| FFN           | FFN; SwiGLU as an option       | nffn, NormalizedFeedForwardNetwork    |
| chunk_size    | chunk size                     | chunk_size                            |

What changed since Mega: complex decays; a norm that streams; scores of normalised queries and keys,
of several heads, with rotated positions instead of a bias; no update gate phi and no silu around
(4). A weight w of a norm is stored as w - 1, so that weight decay draws it to 1. Parameters have
the official names and shapes.

Departures: no dropout; no rescale_nffn (off in every published configuration); lengths need not be
multiples of the chunk (the code refuses them).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.chunked_attention import chunked_attention, visible
from ntlib.mixers.complex_ema import ComplexEMAConfig
from ntlib.mixers.kv_cache import KVCache
from ntlib.mixers.protocol import Mixer, check_heads, check_input, split_heads
from ntlib.mixers.timestep_norm import TimestepNormConfig, TimestepNormState
from ntlib.ops.rotary import rotary_frequencies, rotary_turns, rotate

EPS = 1e-5


@dataclass(frozen=True)
class MegalodonConfig:
    """Gated attention with its residual, (1) to (4), and (5) where it has a feed-forward layer."""

    z_dim: int = 256  # width of queries and of keys, all heads together; d_model / 4 throughout
    value_dim: int | None = None  # width of values; None: 2 d_model, as in every published model
    n_heads: int = 1  # 2 at 1.3B parameters, 4 at 7B
    states: int = 16  # complex dimensions each channel is expanded to
    chunk_size: int = 2048  # 4096 in the paper's 7B model
    norm_groups: int = 32  # of the timestep norm; 64 from 1.3B parameters on
    rope_base: float = 10000.0
    ffn_dim: int = 0  # hidden width of the feed-forward layer; 0: none, the block ends at (4)
    swiglu: bool = False  # silu(W_1 x) * W_3 x instead of silu(W_1 x)

    def build(self, d_model: int) -> "Megalodon | MegalodonBlock":
        return MegalodonBlock(d_model, self) if self.ffn_dim else Megalodon(d_model, self)


class MegalodonState(NamedTuple):
    """What is remembered across chunks, and the keys and values of the chunk that has begun."""

    norm: TimestepNormState
    ema: Tensor  # (batch, d_model, states), complex
    cache: KVCache  # rotated keys; never more than chunk_size tokens


class OffsetNorm(nn.Module):
    """RMSNorm, or LayerNorm where it has a bias; the weight is stored as its distance from 1."""

    def __init__(self, dim: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x):
        if self.bias is None:
            return F.rms_norm(x, self.weight.shape, self.weight + 1, EPS)
        return F.layer_norm(x, self.weight.shape, self.weight + 1, self.bias, EPS)


def _reset(module: nn.Module, generator: torch.Generator | None) -> None:
    """He initialisation as published (kaiming_normal with a = sqrt(5)), biases 0; norms plain."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, a=5**0.5, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, OffsetNorm):
            for parameter in part.parameters():
                nn.init.zeros_(parameter)


class Megalodon(Mixer):
    """Eq. (1) to (4); state: a MegalodonState of bounded size."""

    def __init__(self, d_model: int, config: MegalodonConfig):
        super().__init__()
        self.d_model, self.config, self.n_heads = d_model, config, config.n_heads
        z_dim, value_dim = config.z_dim, config.value_dim or 2 * d_model
        if config.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {config.chunk_size}")
        self.d_k = check_heads(z_dim, self.n_heads, whole="z_dim")
        self.d_v = check_heads(value_dim, self.n_heads, whole="value_dim")
        rotary_frequencies(self.d_k)  # refuses an odd width right here
        self.timenorm = TimestepNormConfig(config.norm_groups, EPS).build(d_model)
        self.cema = ComplexEMAConfig(config.states).build(d_model)
        self.rmsnorm = OffsetNorm(d_model, bias=False)
        self.wv = nn.Linear(d_model, value_dim)
        self.wz = nn.Linear(d_model, z_dim)
        self.wr = nn.Linear(d_model, value_dim)
        self.wh1 = nn.Linear(d_model, d_model)
        self.wh2 = nn.Linear(value_dim, d_model, bias=False)
        self.gamma = nn.Parameter(torch.zeros(2, z_dim))
        self.beta = nn.Parameter(torch.zeros(2, z_dim))

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """As published; residual_scale multiplies W_h1 and W_h2."""
        _reset(self, generator)
        self.timenorm.reset_parameters()
        self.cema.reset_parameters(generator)
        nn.init.zeros_(self.gamma)
        nn.init.zeros_(self.beta)
        with torch.no_grad():
            self.wh1.weight *= residual_scale
            self.wh2.weight *= residual_scale

    def init_state(self, batch_size, capacity=0):
        shape = (batch_size, self.n_heads, min(capacity, self.config.chunk_size))
        cache = KVCache(
            self.gamma.new_zeros(*shape, self.d_k), self.gamma.new_zeros(*shape, self.d_v), 0
        )
        return MegalodonState(
            self.timenorm.init_state(batch_size), self.cema.init_state(batch_size), cache
        )

    def forward(self, x, state=None):
        check_input(x, self.d_model)
        norm, ema, cache = state or self.init_state(x.shape[0])
        normed, norm = self.timenorm(x, norm)
        mx, ema = self.cema(normed, ema)
        y, cache = self._attend(x, normed, self.rmsnorm(mx), cache)
        return y, MegalodonState(norm, ema, cache)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        norm, ema, cache = state
        normed, norm = self.timenorm.step(x_t, norm)
        mx, ema = self.cema.step(normed, ema)
        one = (part[:, None] for part in (x_t, normed, self.rmsnorm(mx)))
        y, cache = self._attend(*one, cache)
        return y[:, 0], MegalodonState(norm, ema, cache)

    def _attend(self, x, normed, mx, cache):
        """(2) to (4)."""
        z = F.rms_norm(split_heads(self.wz(mx), self.n_heads), (self.d_k,), eps=EPS).flatten(-2)
        q, k = (z[..., None, :] * ((self.gamma + 1) * self.d_k**-0.5) + self.beta).unbind(-2)
        turns = self._turns(cache.length, x.shape[1], x.device)
        q, k = (rotate(split_heads(part, self.n_heads), turns).transpose(1, 2) for part in (q, k))
        v = split_heads(F.silu(self.wv(normed)), self.n_heads).transpose(1, 2)
        out, cache = chunked_attention(_softmax, q, k, v, cache, self.config.chunk_size)
        gated = F.silu(self.wr(mx)) * out.transpose(1, 2).flatten(2)
        return x + self.wh1(mx) + self.wh2(gated), cache

    def _turns(self, start: int, length: int, device: torch.device) -> Tensor:
        """Rotations by the position inside the chunk, the same for all heads."""
        size = self.config.chunk_size
        frequencies = rotary_frequencies(self.d_k, base=self.config.rope_base, device=device)
        if start + length <= size:
            return rotary_turns(frequencies, start, length)[:, None]
        positions = torch.arange(start, start + length, device=device) % size
        return rotary_turns(frequencies, 0, size)[positions, None]


def _softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(3) without the rotations; the scale is in q and k."""
    seen = visible(q.shape[-2], k.shape[-2], q.device)
    scores = torch.matmul(q, k.mT).masked_fill(~seen, -torch.inf)
    return torch.matmul(scores.softmax(-1), v)


class FeedForward(nn.Module):
    """residual + W_2 silu(W_1 layer_norm(x)), gated by W_3 with SwiGLU."""

    def __init__(self, d_model: int, dim: int, swiglu: bool):
        super().__init__()
        self.norm = OffsetNorm(d_model, bias=True)
        self.fc1 = nn.Linear(d_model, dim, bias=False)
        self.fc2 = nn.Linear(dim, d_model, bias=False)
        self.fc3 = nn.Linear(d_model, dim, bias=False) if swiglu else None

    def forward(self, x, residual):
        x = self.norm(x)
        hidden = F.silu(self.fc1(x))
        return residual + self.fc2(hidden if self.fc3 is None else hidden * self.fc3(x))


class MegalodonBlock(Mixer):
    """Eq. (1) to (5), a whole block; state: that of its gated attention."""

    def __init__(self, d_model: int, config: MegalodonConfig):
        super().__init__()
        self.d_model, self.config = d_model, config
        self.mega = Megalodon(d_model, config)
        self.nffn = FeedForward(d_model, config.ffn_dim, config.swiglu)

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """As published; residual_scale multiplies what is added to x, W_2."""
        self.mega.reset_parameters(generator)
        _reset(self.nffn, generator)
        with torch.no_grad():
            self.nffn.fc2.weight *= residual_scale

    def init_state(self, batch_size, capacity=0):
        return self.mega.init_state(batch_size, capacity)

    def forward(self, x, state=None):
        y, state = self.mega(x, state)
        return self.nffn(y, x), state

    def step(self, x_t, state):
        y, state = self.mega.step(x_t, state)
        return self.nffn(y, x_t), state
