"""What a fixed memory can hold: the bits of a state, the bits that a task needs, and how much of an
associative memory interference leaves.

Counting (Jelassi et al. 2402.01032, Thm 2.7; Arora et al. 2402.18668, Thm 3.1): what is said after
the context is read depends on it through the state alone. B bits are at most 2^B states, and a task
whose answer is one of 2^H equally likely ones needs H bits to be always right. This holds for any
model and any training, if the question comes after the context. The bounds are far from tight: a
state of a million numbers fails on a hundred names, because of what was written into it and how.
`demonstrated_bits` says how far.

Interference: keys k_i and values v_i are written into S = sum_i k_i v_iᵀ, nothing is trained, and
S is asked k_jᵀ S = v_j + sum_{i != j} (k_jᵀ k_i) v_i. For random unit keys of N dimensions the
second term has the size sqrt(pairs / N), whatever the number of value dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import lgamma, log, log2

import pandas as pd
import torch
from torch import Tensor

from ntlib import cost_model
from ntlib.models.language_model import ModelConfig
from ntlib.ops.delta_rule import delta_rule
from ntlib.ops.linear_attention import linear_attention


def state_bits(config: ModelConfig, context: int, number_bytes: int = 4) -> int:
    """Bits of all layers' states of one sequence after `context` tokens; attention's grow."""
    return 8 * cost_model.state_bytes(config, context, number_bytes=number_bytes)


def copying_bits(length: int, symbols: int) -> float:
    """Bits that a copy of `length` uniform symbols needs: 1410 for 300 letters of 26."""
    return length * log2(symbols)


def recall_bits(pairs: int, values: int, repeated: bool = True) -> float:
    """Bits that the values of `pairs` known keys need; `repeated`: two keys may have one value.

    In ntlib.tasks.AssociativeRecall, values are the upper half of the vocabulary, not repeated.
    Raises ValueError for more pairs than values that are not repeated.
    """
    if repeated:
        return pairs * log2(values)
    if pairs > values:
        raise ValueError(f"pairs must be at most values = {values} if none repeats, got {pairs}")
    return (lgamma(values + 1) - lgamma(values - pairs + 1)) / log(2)


def string_accuracy_bound(bits: float, needed: float) -> float:
    """Highest probability that a whole answer is right: min(1, 2^(bits - needed))."""
    return 2.0 ** min(bits - needed, 0.0)


def token_accuracy_bound(bits: float, needed: float, count: int, symbols: int) -> float:
    """Highest mean share of right tokens in an answer of `count` tokens out of `symbols`.

    The largest a with `demonstrated_bits(a, ...)` <= bits; also of a single token, if any of the
    `count` may be asked for. Raises ValueError for symbols < 2 or count < 1.
    """
    if demonstrated_bits(1.0, needed, count, symbols) <= bits:
        return 1.0
    low, high = 1 / symbols, 1.0  # chance needs no bits
    while high - low > 1e-12:
        middle = (low + high) / 2
        if demonstrated_bits(middle, needed, count, symbols) <= bits:
            low = middle
        else:
            high = middle
    return low


def demonstrated_bits(accuracy: float, needed: float, count: int, symbols: int) -> float:
    """Bits that a memory must have held to give a mean `accuracy` on tokens: Fano's inequality.

    needed - count (h(e) + e log2(symbols - 1)) with e = 1 - accuracy and h the binary entropy; 0 at
    chance and below. Raises ValueError for symbols < 2, count < 1 or an accuracy outside [0, 1].
    """
    if symbols < 2 or count < 1:
        raise ValueError(f"symbols must be at least 2, count at least 1, got {symbols} and {count}")
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy must be in [0, 1], got {accuracy}")
    error = 1 - max(accuracy, 1 / symbols)
    left = error * log2(symbols - 1) - sum(p * log2(p) for p in (error, 1 - error) if p > 0)
    return max(needed - count * left, 0.0)


Memory = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Keys (batch, length, key_dim) and values (batch, length, value_dim) written in this order, and
questions (batch, count, key_dim) -> answers (batch, count, value_dim)."""


def outer_products(keys: Tensor, values: Tensor, questions: Tensor, decay: float = 1.0) -> Tensor:
    """S <- decay S + k vᵀ: linear attention; with decay, RetNet."""
    k, v = keys[:, None], values[:, None]
    log_decay = torch.tensor([log(decay)], dtype=keys.dtype)
    return questions @ linear_attention(k, k, v, log_decay)[1][:, 0]


def delta(keys: Tensor, values: Tensor, questions: Tensor) -> Tensor:
    """S <- (I - k kᵀ) S + k vᵀ: the old value of the key is taken out first (DeltaNet, RWKV-7)."""
    k, v = keys[:, None], values[:, None]
    return questions @ delta_rule(k, k, v, -k, k)[1][:, 0]


def cache(keys: Tensor, values: Tensor, questions: Tensor) -> Tensor:
    """All keys and values are kept; the answer is the newest value whose key matches best: what
    attention does in the limit of large keys."""
    likeness = questions @ keys.mT
    best = likeness >= likeness.amax(dim=-1, keepdim=True) - 1e-5
    newest = (best * torch.arange(1, keys.shape[1] + 1)).argmax(dim=-1)
    return values.gather(1, newest[..., None].expand(-1, -1, values.shape[-1]))


MEMORIES: dict[str, Memory] = {
    "outer products": outer_products,
    "with decay 0.95": partial(outer_products, decay=0.95),
    "delta rule": delta,
    "KV cache": cache,
}

INTERFERENCE_COLUMNS = {
    "memory": "how it is written and read",
    "key_dim": "dimensions of a key, N",
    "pairs": "keys written",
    "repeat": "number of the draw of keys, values and codes",
    "accuracy": "share of keys whose newest value was named",
}


def interference(
    key_dims: Sequence[int],
    pairs: Sequence[int],
    *,
    memories: Mapping[str, Memory] = MEMORIES,
    writes: int = 1,
    values: int = 256,
    value_dim: int = 64,
    repeats: int = 40,
    seed: int = 0,
) -> pd.DataFrame:
    """How many of `pairs` associations memories return without any training; rows: see
    INTERFERENCE_COLUMNS.

    Keys are uniform on the unit sphere, values one of `values` Gaussian codes of `value_dim`
    dimensions; the code whose product with the answer is largest is taken for it. With `writes` > 1
    every key is written again with another value, all keys in each round in a new order.
    """
    generator = torch.Generator().manual_seed(seed)
    frames = []
    for key_dim in key_dims:
        for count in pairs:
            keys = torch.randn(repeats, count, key_dim, generator=generator)
            keys /= keys.norm(dim=-1, keepdim=True)
            codes = torch.randn(repeats, values, value_dim, generator=generator)
            order = [torch.randperm(count, generator=generator) for _ in range(writes)]
            # in each round every key gets a code; what counts is that of the last one
            chosen = torch.randint(values, (writes, repeats, count), generator=generator)
            written = torch.cat([row[:, turn] for row, turn in zip(chosen, order)], dim=1)
            stored = codes.gather(1, written[..., None].expand(-1, -1, value_dim))
            for name, memory in memories.items():
                answers = memory(keys[:, torch.cat(order)], stored, keys)
                right = (answers @ codes.mT).argmax(dim=-1) == chosen[-1]
                shares = right.double().mean(dim=1).numpy()
                row = (name, key_dim, count, range(repeats), shares)
                frames.append(pd.DataFrame(dict(zip(INTERFERENCE_COLUMNS, row, strict=True))))
    return pd.concat(frames, ignore_index=True)
