"""Causal attention inside chunks, resumable at any token: Mega's and Megalodon's."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ntlib.mixers.kv_cache import KVCache, append, filled

# (queries, keys, values), each (..., tokens, width), the queries being those of the last keys
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def chunked_attention(
    attend: Attend,
    q: Float[Tensor, "batch heads length d_k"],
    k: Float[Tensor, "batch heads length d_k"],
    v: Float[Tensor, "batch heads length d_v"],
    cache: KVCache,
    chunk_size: int | None,
) -> tuple[Float[Tensor, "batch heads length d_v"], KVCache]:
    """Each query attends to its own chunk, up to itself; None: all is one chunk without end.

    `cache` holds what was read of a chunk that has begun; at a chunk's end it is emptied, so that
    it never holds chunk_size tokens. Lengths need not divide: first the begun chunk is continued,
    then come whole chunks side by side, then what is left begins a chunk.
    """
    length = q.shape[2]
    size = chunk_size or cache.length + length + 1
    begun = min(length, size - cache.length) if cache.length else 0
    whole = begun + (length - begun) // size * size
    outputs = []
    if begun:
        cache = append(cache, k[:, :, :begun], v[:, :, :begun], chunk_size)
        outputs.append(attend(q[:, :, :begun], *filled(cache)))
        cache = cache._replace(length=cache.length % size)
    if whole > begun:
        chunks = (part[:, :, begun:whole].unflatten(2, (-1, size)) for part in (q, k, v))
        outputs.append(attend(*chunks).flatten(2, 3))
    if whole < length:
        cache = append(cache, k[:, :, whole:], v[:, :, whole:], chunk_size)
        outputs.append(attend(q[:, :, whole:], *filled(cache)))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2), cache


def visible(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """True where a key is not in the future of a query, (n_queries, n_keys)."""
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.tril(n_keys - n_queries)
