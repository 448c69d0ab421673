"""The preallocated key-value cache of every attention in the book."""

from typing import NamedTuple

import torch
from torch import Tensor


class KVCache(NamedTuple):
    """Keys and values of the first `length` tokens, in buffers with room for more.

    A cache is used up by the call it is passed to: the next one shares its buffers.
    """

    keys: Tensor  # (batch, n_kv_heads, capacity, key width), as scores use them: rotated or not
    values: Tensor  # (batch, n_kv_heads, capacity, value width)
    length: int


def filled(cache: KVCache) -> tuple[Tensor, Tensor]:
    """The keys and values of the tokens read so far."""
    return cache.keys[:, :, : cache.length], cache.values[:, :, : cache.length]


def append(cache: KVCache, k: Tensor, v: Tensor, at_most: int | None = None) -> KVCache:
    """The cache with k and v, (batch, n_kv_heads, tokens, .), behind what it holds.

    `at_most` is the number of tokens it will ever hold, if there is a bound: buffers do not grow
    beyond it.
    """
    end = cache.length + k.shape[2]
    if torch.is_grad_enabled() and (k.requires_grad or cache.keys.requires_grad):
        # in-place writes would break the graph, so training concatenates
        keys, values = filled(cache)
        return KVCache(torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2), end)
    keys, values = (
        _with_room(buffer, cache.length, end, at_most) for buffer in (cache.keys, cache.values)
    )
    keys[:, :, cache.length : end], values[:, :, cache.length : end] = k, v
    return KVCache(keys, values, end)


def _with_room(buffer: Tensor, length: int, needed: int, at_most: int | None) -> Tensor:
    if needed <= buffer.shape[2]:
        return buffer
    room = max(needed, 2 * buffer.shape[2])  # doubling: a token costs O(1) copies on average
    room = room if at_most is None else max(needed, min(room, at_most))
    larger = buffer.new_zeros(*buffer.shape[:2], room, buffer.shape[3])
    larger[:, :, :length] = buffer[:, :, :length]
    return larger
