"""Multi-scale retention, the mixer of RetNet.

| here             | RetNet (2307.08621)                                                 |
| ---------------- | ------------------------------------------------------------------- |
| qkvg             | X W_Q, X W_K, X W_V, X W_G, stacked in this order                   |
| rotate           | multiplication by Theta and its conjugate, Eq. 5                    |
| linear_attention | Retention(X), Eq. 5 (parallel), 6 (recurrent), 7 (chunkwise)        |
| log_decay        | log gamma, gamma = 1 - 2^(-5 - arange(0, h)), Eq. 8                 |
| norm             | GroupNorm_h, Eq. 8: every head is normalised by itself              |
| silu(gate)       | swish(X W_G), Eq. 8                                                 |
| o                | W_O, Eq. 8                                                          |

Score normalisations of Sec. 2.2: (1) K / sqrt(d_k) is always applied. (2) D_nm / sqrt(sum_i D_ni)
divides every output of position n by one number that depends on n and the head only, and (3)
max(|sum_m R_nm|, 1) by one that depends on the data as well. The norm that follows removes both but
for its eps; (2) is always applied, (3) with `row_normalisation`.

Departures, measured in the RetNet chapter: the released code replaces GroupNorm by an RMSNorm
without weights (`head_norm="rms"`, the default here, too), omits (3) in its recurrent mode, and
rescales chunks by another rule in its chunkwise mode, so that its three modes agree only as eps
goes to 0. Ours apply the same normalisation in every form.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer, check_heads, check_input, split_heads
from ntlib.mixers.retention_step_kernel import retention_step
from ntlib.mixers.rwkv_step_kernel import arrays
from ntlib.ops.compiled import step_serves
from ntlib.ops.linear_attention import DEFAULT_CHUNK_SIZE, linear_attention, step
from ntlib.ops.rotary import rotary_frequencies, rotary_turns, rotate

CPU = torch.device("cpu")
# Decoding computes what depends on position for this many tokens at a time: per token it would cost
# as much as a projection.
STEP_BLOCK = 64


@dataclass(frozen=True)
class RetentionConfig:
    """RetNet's mixer; defaults as in the paper's Sec. 2 and the released code."""

    n_heads: int = 4  # the published models use d_model / 256
    value_factor: float = 2.0  # d_v / d_model, 2 in the paper; released configurations: about 5 / 3
    value_dim: int | None = None  # d_v itself, where value_factor cannot express it
    # "eq8": 1 - 2^(-5 - h); "experiments": Sec. 3.1, horizons 32 ... 512 at any number of heads
    decay: str = "eq8"
    head_norm: str = "rms"  # "rms": the released code; "group": the paper's GroupNorm, with weights
    row_normalisation: bool = False  # score normalisation (3), as in the released parallel mode
    eps: float = 1e-6  # of the head norm; the released code's layernorm_eps
    chunk_size: int = DEFAULT_CHUNK_SIZE  # changes speed, not results

    def build(self, d_model: int) -> "Retention":
        return Retention(d_model, self)


class RetentionState(NamedTuple):
    """S_n of every head, and the number of tokens read: it sets rotations and normalisation (2)."""

    memory: Tensor  # (batch, n_heads, d_k, d_v / n_heads), one more column with row_normalisation
    position: int


@lru_cache
@torch.inference_mode(False)  # what is kept must serve training, too
def retention_log_decay(n_heads: int, schedule: str = "eq8", device: torch.device = CPU) -> Tensor:
    """log gamma of every head, float64 (no buffer: casting a module must not touch it).

    Raises ValueError for an unknown schedule.
    """
    options = {"dtype": torch.float64, "device": device}
    if schedule == "eq8":
        return torch.log1p(-(2.0 ** (-5 - torch.arange(n_heads, **options))))
    if schedule == "experiments":
        return torch.log1p(
            -torch.linspace(math.log(1 / 32), math.log(1 / 512), n_heads, **options).exp()
        )
    raise ValueError(f"decay must be 'eq8' or 'experiments', got {schedule!r}")


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def position_factors(
    position: int,
    length: int,
    n_heads: int,
    d_k: int,
    schedule: str,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """What depends on position alone, so that the layers of a model share it.

    Rotations of q and k, (length, 2, 1, d_k / 2); those of k carry 1 / sqrt(d_k), normalisation
    (1). Then normalisation (2), (length, n_heads, 1): 1 / sqrt(sum_i D_ni), where the sum is
    geometric, (1 - gamma^(n+1)) / (1 - gamma).
    """
    turns = rotary_turns(rotary_frequencies(d_k, endpoint=True, device=device), position, length)
    turns = torch.stack([turns, turns * d_k**-0.5], dim=1)[:, :, None]
    log_decay = retention_log_decay(n_heads, schedule, device)
    n = torch.arange(position + 1, position + length + 1, device=device)[:, None]
    row_scale = (torch.expm1(log_decay) / torch.expm1(n * log_decay)).sqrt()[..., None]
    return turns.to(dtype.to_complex()), row_scale.to(dtype)


class Retention(Mixer):
    """Multi-scale retention; state: a RetentionState of constant size."""

    def __init__(self, d_model: int, config: RetentionConfig):
        super().__init__()
        self.d_model, self.config, self.n_heads = d_model, config, config.n_heads
        self.d_v = config.value_dim or round(config.value_factor * d_model)
        self.d_k = check_heads(d_model, self.n_heads)
        check_heads(self.d_v, self.n_heads, whole="value width")
        if config.head_norm not in ("rms", "group"):
            raise ValueError(f"head_norm must be 'rms' or 'group', got {config.head_norm!r}")
        # W_Q, W_K, W_V, W_G stacked: one matrix product instead of four, which decoding notices
        self.qkvg = nn.Linear(d_model, 2 * d_model + 2 * self.d_v, bias=False)
        self.o = nn.Linear(self.d_v, d_model, bias=False)
        grouped = config.head_norm == "group"
        self.norm = nn.GroupNorm(self.n_heads, self.d_v, eps=config.eps) if grouped else None
        retention_log_decay(self.n_heads, config.decay)  # refuses an unknown schedule right here

    def reset_parameters(self, generator=None, residual_scale=1.0):
        for weight in self.qkvg.weight.split(self._widths()):
            nn.init.xavier_uniform_(weight, gain=2**-2.5, generator=generator)
        nn.init.xavier_uniform_(self.o.weight, gain=residual_scale / 2, generator=generator)
        if self.norm is not None:
            self.norm.reset_parameters()

    def init_state(self, batch_size, capacity=0):
        weight = self.qkvg.weight
        # gamma^n needs more digits than bfloat16 has
        dtype = torch.promote_types(weight.dtype, torch.float32)
        columns = self.d_v // self.n_heads + self.config.row_normalisation
        memory = weight.new_zeros(batch_size, self.n_heads, self.d_k, columns, dtype=dtype)
        return RetentionState(memory, 0)

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of retention's three forms."""
        check_input(x, self.d_model)
        memory, position = state or self.init_state(x.shape[0])
        turns, row_scale = self._at_positions(position, x.shape[1], memory)
        *qkv, gate = self._project(x, turns)
        q, k, v = (part.transpose(1, 2) for part in qkv)
        log_decay = retention_log_decay(self.n_heads, self.config.decay, x.device)
        out, memory = linear_attention(
            q, k, v, log_decay, state=memory, form=form, chunk_size=self.config.chunk_size
        )
        y = self._read_out(out.transpose(1, 2), gate, row_scale)
        return y, RetentionState(memory, position + x.shape[1])

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        memory, position = state
        row = position % STEP_BLOCK
        turns, row_scale = self._at_positions(position - row, STEP_BLOCK, memory)
        if step_serves(x_t) and self.norm is None and not self.config.row_normalisation:
            y, memory = self._compiled_step(x_t, memory, turns[row, :, 0], row_scale[row, :, 0])
            return y, RetentionState(memory, position + 1)
        *qkv, gate = self._project(x_t, turns[row])
        q, k, v = (part.to(memory.dtype) for part in qkv)
        log_decay = retention_log_decay(self.n_heads, self.config.decay, x_t.device)
        out, memory = step(q, k, v, log_decay.exp().to(memory.dtype), memory)
        return self._read_out(out, gate, row_scale[row]), RetentionState(memory, position + 1)

    def _compiled_step(self, x_t, memory, turns, row_scale) -> tuple[Tensor, Tensor]:
        y, new = torch.empty_like(x_t), torch.empty_like(memory)
        decay = retention_log_decay(self.n_heads, self.config.decay).exp().to(memory.dtype)
        retention_step(
            *arrays(x_t, self.qkvg.weight, torch.view_as_real(turns), row_scale, decay),
            self.config.eps,
            *arrays(self.o.weight, memory, new, y),
        )
        return y, new

    def _at_positions(self, position: int, length: int, memory: Tensor) -> tuple[Tensor, Tensor]:
        return position_factors(
            position, length, self.n_heads, self.d_k, self.config.decay, memory.device, memory.dtype
        )

    def _project(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(..., d_model) -> q, k, v, each (..., n_heads, .), and the gate's input (..., d_v)."""
        qk, v, gate = self.qkvg(x).split((2 * self.d_model, self.d_v, self.d_v), dim=-1)
        q, k = rotate(qk.unflatten(-1, (2, self.n_heads, self.d_k)), turns).unbind(-3)
        v = split_heads(v, self.n_heads)
        if self.config.row_normalisation:
            v = F.pad(
                v, (0, 1), value=1.0
            )  # a column of ones: its output is a row's sum of weights
        return q, k, v, gate

    def _read_out(self, out: Tensor, gate: Tensor, row_scale: Tensor) -> Tensor:
        """Normalise (..., n_heads, d_v / n_heads), gate it and map it back to d_model."""
        out = out * row_scale
        if self.config.row_normalisation:
            out, row_sum = out[..., :-1], out[..., -1:]
            out = out / row_sum.abs().clamp(min=1).detach()
        return self.o(F.silu(gate) * self._head_norm(out).to(gate.dtype))

    def _head_norm(self, out: Tensor) -> Tensor:
        """(..., n_heads, d_v / n_heads) -> (..., d_v), each head normalised by itself."""
        if self.norm is None:
            return F.rms_norm(out, out.shape[-1:], eps=self.config.eps).flatten(-2)
        flat = out.to(self.norm.weight.dtype).reshape(-1, self.d_v)
        return self.norm(flat).view(*out.shape[:-2], self.d_v)

    def _widths(self) -> list[int]:
        """Rows of W_Q, W_K, W_V, W_G in the stacked weight."""
        return [self.d_model, self.d_model, self.d_v, self.d_v]
