"""Moving-average gated attention, the mixer of Mega, with its norm, its gate and its residual.

    x'  = norm(x)                     mx = EMA(x')               v = silu(W_v x')               (1)
    u, z, r, h = W_m mx               phi = sigmoid(u)           z, r = silu(z), silu(r)        (2)
    q = gamma_0 * z + beta_0          k = gamma_1 * z + beta_1                                  (3)
    H = silu(h + W_h (r * f(q k^T) v))                                                          (4)
    y = x + phi * (H - x)                                                                       (5)

f is softmax, laplace or relu^2 of scores to which a position bias is added:

    softmax(q k^T / sqrt(z) + b)      laplace(q k^T / n + b)     relu(q k^T / n + b)^2          (6)
    laplace(s) = (1 + erf((s - mu) / (sigma sqrt(2)))) / 2,  mu = sqrt(1/2), sigma = sqrt(1 / 4 pi)

n is the number of keys that a query sees; laplace has at sqrt(1/2) the value and the slope of
relu^2. There is one head, whose queries and keys come from one projection.

| here         | Mega (2209.10655), Eq. 6 and after      | the official code            |
| ------------ | --------------------------------------- | ---------------------------- |
| mx = EMA(x') | X' = EMA(X), Eq. 6                      | move (ntlib.mixers.ema)      |
| v            | V, of X itself, not averaged            | v_proj                       |
| z            | Z, the shared representation            | z, of mx_proj; width zdim    |
| gamma, beta  | kappa and mu, one pair for q, one for k | gamma, beta                  |
| r            | gamma, the reset gate                   | r, of mx_proj; width hdim    |
| phi          | phi, the update gate                    | u, of mx_proj                |
| H            | H^, the candidate                       | h_proj                       |
| laplace      | f_laplace                               | utils.laplace, to six digits |
| chunk_size   | c of Mega-chunk                         | chunk_size                   |

Departures of the code from the paper, followed here: silu and a residual inside EMA; "rotary" is an
additive bias (ntlib.mixers.position_bias); Appendix C has laplace and relu^2 meet at sqrt(2), where
they do not. Departures of ours from the code: no dropout and no masks for padding; the causal form
takes any length, the last chunk being short (the code pads it, which changes nothing: no query sees
a later key); a kernel without `truncation`. Parameters have the official names and shapes.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.chunked_attention import chunked_attention, visible
from ntlib.mixers.ema import DampedEMAConfig
from ntlib.mixers.kv_cache import KVCache
from ntlib.mixers.position_bias import INIT_STD, RotaryBias, SimpleBias
from ntlib.mixers.protocol import Mixer, check_input
from ntlib.mixers.s4d_average import S4DAverageConfig
from ntlib.mixers.sequence_norm import SequenceNorm

LAPLACE_MEAN, LAPLACE_DEVIATION = math.sqrt(1 / 2), math.sqrt(1 / (4 * math.pi))


def laplace(scores: Tensor) -> Tensor:
    """f_laplace of (6), elementwise: a smooth relu^2 that does not exceed 1."""
    return 0.5 * (1 + torch.erf((scores - LAPLACE_MEAN) / (LAPLACE_DEVIATION * math.sqrt(2))))


def relu2(scores: Tensor) -> Tensor:
    """relu(scores)^2, elementwise."""
    return F.relu(scores).square()


ELEMENTWISE = {"laplace": laplace, "relu2": relu2}
ATTENTION = ("softmax", *ELEMENTWISE)
POSITION_BIAS = ("simple", "rotary")
AVERAGES = ("ema", "s4d")


@dataclass(frozen=True)
class MegaConfig:
    """One layer of moving-average gated attention; sizes as in the paper's smaller models."""

    z_dim: int = 64  # width of queries and keys; 128 in the language models
    value_dim: int | None = None  # width of values; None: 2 d_model, as in most published models
    # h, dimensions each channel is expanded to by the moving average; 0: none, the ablation
    states: int = 16
    attention: str = "softmax"  # "laplace" for the long-range arena, "relu2": the ablation
    # "simple": a number per distance, up to max_positions or chunk_size; "rotary": any length
    position_bias: str = "simple"
    chunk_size: int | None = None  # None: attention over everything; a number: Mega-chunk
    max_positions: int = 1024  # longest sequence of a simple bias without chunks
    norm: str = "layernorm"  # or "scalenorm", "rmsnorm", "batchnorm"
    prenorm: bool = True  # False: y is normalised instead of x
    bidirectional: bool = False  # for encoders; no state then
    average: str = "ema"  # or "s4d", the ablation of S4's authors (ntlib.mixers.s4d_average)

    def build(self, d_model: int) -> "Mega":
        return Mega(d_model, self)

    def average_config(self) -> DampedEMAConfig | S4DAverageConfig:
        """The configuration of what averages."""
        average = S4DAverageConfig if self.average == "s4d" else DampedEMAConfig
        return average(self.states, self.bidirectional)


class MegaState(NamedTuple):
    """What is remembered across chunks, and the keys and values of the chunk that has begun."""

    ema: Tensor  # (batch, d_model, states), float32 at least; of S4D half as many, complex
    cache: KVCache  # of one head; with chunks it never holds more than chunk_size tokens


class Mega(Mixer):
    """Eq. (1) to (5); state: a MegaState, of bounded size with chunks.

    With norm="batchnorm", states and steps mean what they say in eval() only (see SequenceNorm).
    """

    def __init__(self, d_model: int, config: MegaConfig):
        super().__init__()
        _check(config)
        self.d_model, self.config = d_model, config
        z_dim = config.z_dim
        self.value_dim = value_dim = config.value_dim or 2 * d_model
        self.norm = SequenceNorm(config.norm, d_model)
        self.move = config.average_config().build(d_model)
        self.v_proj = nn.Linear(d_model, value_dim)
        self.mx_proj = nn.Linear(d_model, z_dim + value_dim + 2 * d_model)
        self.h_proj = nn.Linear(value_dim, d_model)
        self.gamma = nn.Parameter(torch.empty(2, z_dim))
        self.beta = nn.Parameter(torch.empty(2, z_dim))
        simple = config.position_bias == "simple"
        longest = config.chunk_size or config.max_positions
        self.rel_pos_bias = SimpleBias(longest) if simple else RotaryBias(z_dim)

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """As published: N(0, 0.02^2), biases 0. The gate phi weighs what is written against x, so
        that residual_scale has nothing to do."""
        self.norm.reset_parameters()
        self.move.reset_parameters(generator)
        for linear in (self.v_proj, self.mx_proj, self.h_proj):
            nn.init.normal_(linear.weight, std=INIT_STD, generator=generator)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.gamma, std=INIT_STD, generator=generator)
        nn.init.zeros_(self.beta)
        self.rel_pos_bias.reset_parameters(generator)

    def init_state(self, batch_size, capacity=0):
        rows = min(capacity, self.config.chunk_size or capacity)
        keys = self.gamma.new_zeros(batch_size, 1, rows, self.config.z_dim)
        values = self.gamma.new_zeros(batch_size, 1, rows, self.value_dim)
        return MegaState(self.move.init_state(batch_size), KVCache(keys, values, 0))

    def forward(self, x, state=None):
        check_input(x, self.d_model)
        if self.config.bidirectional:
            return self._both_ways(x, state), None
        ema, cache = state or self.init_state(x.shape[0])
        normed = self.norm(x) if self.config.prenorm else x
        mx, ema = self.move(normed, ema)
        v = F.silu(self.v_proj(normed))
        u, q, k, r, h = self._project(mx)
        attended, cache = chunked_attention(
            self._attend, q[:, None], k[:, None], v[:, None], cache, self.config.chunk_size
        )
        return self._read_out(x, u, r, h, attended[:, 0]), MegaState(ema, cache)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        ema, cache = state
        normed = self.norm(x_t) if self.config.prenorm else x_t
        mx, ema = self.move.step(normed, ema)
        v = F.silu(self.v_proj(normed))
        u, q, k, r, h = self._project(mx)
        one = (part[:, None, None] for part in (q, k, v))  # one head, one token
        attended, cache = chunked_attention(self._attend, *one, cache, self.config.chunk_size)
        return self._read_out(x_t, u, r, h, attended[:, 0, 0]), MegaState(ema, cache)

    def _both_ways(self, x, state):
        length, chunk = x.shape[1], self.config.chunk_size or x.shape[1]
        if state is not None:
            self.move.init_state(x.shape[0])  # raises: there is no such thing
        if length > chunk and length % chunk:
            raise ValueError(
                f"length must be a multiple of chunk_size = {chunk}, or less, in a bidirectional "
                f"layer, got {length}: pad it"
            )
        normed = self.norm(x) if self.config.prenorm else x
        mx, _ = self.move(normed)
        u, q, k, r, h = self._project(mx)
        parts = (q, k, F.silu(self.v_proj(normed)))
        chunks = (part.unflatten(1, (-1, min(chunk, length))) for part in parts)
        return self._read_out(x, u, r, h, self._attend(*chunks).flatten(1, 2))

    def _project(self, mx: Tensor) -> tuple[Tensor, ...]:
        """(2), with u before its sigmoid, and (3), from the average."""
        z_dim, d_model = self.config.z_dim, self.d_model
        u, zr, h = self.mx_proj(mx).split((d_model, z_dim + self.value_dim, d_model), dim=-1)
        z, r = F.silu(zr).split((z_dim, self.value_dim), dim=-1)
        q, k = (z[..., None, :] * self.gamma + self.beta).unbind(-2)
        return u, q, k, r, h

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """f(q k^T) v of (6); q, k, v (..., tokens, width), queries at the last keys."""
        n_queries, n_keys = q.shape[-2], k.shape[-2]
        bias = self.rel_pos_bias(n_queries, n_keys)
        seen = None if self.config.bidirectional else visible(n_queries, n_keys, q.device)
        if self.config.attention == "softmax":
            scores = torch.matmul(q * self.config.z_dim**-0.5, k.mT) + bias
            scores = scores if seen is None else scores.masked_fill(~seen, -math.inf)
            return torch.matmul(scores.softmax(-1), v)
        count = n_keys if seen is None else seen.sum(-1, keepdim=True).to(q.dtype)
        weights = ELEMENTWISE[self.config.attention](torch.matmul(q, k.mT) / count + bias)
        return torch.matmul(weights if seen is None else weights * seen, v)

    def _read_out(self, x: Tensor, u: Tensor, r: Tensor, h: Tensor, attended: Tensor) -> Tensor:
        """(4) and (5)."""
        h = F.silu(h + self.h_proj(r * attended))
        y = torch.lerp(x, h, torch.sigmoid(u))
        return y if self.config.prenorm else self.norm(y)


def _check(config: MegaConfig) -> None:
    choices = {"attention": ATTENTION, "position_bias": POSITION_BIAS, "average": AVERAGES}
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(allowed)}, got {getattr(config, name)!r}"
            )
    if config.chunk_size is not None and config.chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1 or None, got {config.chunk_size}")
