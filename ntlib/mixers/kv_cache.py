"""The preallocated key-value cache of every attention in the book."""

from typing import NamedTuple

import torch
from torch import Tensor


class KVCache(NamedTuple):
    """Keys and values of the first `length` tokens, in buffers with room for more; with a window
    those of its tokens, in a ring.

    A cache is used up by the call it is passed to: the next one shares its buffers.
    """

    keys: Tensor  # (batch, n_kv_heads, capacity, key width), as scores use them: rotated or not
    values: Tensor  # (batch, n_kv_heads, capacity, value width)
    length: int


def filled(cache: KVCache) -> tuple[Tensor, Tensor]:
    """The keys and values that are kept, in the order of the buffers."""
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


def with_past(cache: KVCache, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Keys and values of the ring's tokens in their order, then k and v."""
    past = filled(cache)
    if cache.length > window:
        past = (buffer.roll(-(cache.length % window), dims=2) for buffer in past)
    return tuple(torch.cat(pair, dim=2) for pair in zip(past, (k, v), strict=True))


def last_in_ring(keys: Tensor, values: Tensor, length: int, window: int) -> KVCache:
    """The ring after `length` tokens, of which keys and values end with the last ones."""
    keys, values = keys[:, :, -window:], values[:, :, -window:]
    if length > window:
        keys, values = (x.roll(length % window, dims=2) for x in (keys, values))
    return KVCache(keys, values, length)


def append_to_ring(cache: KVCache, k: Tensor, v: Tensor, window: int) -> KVCache:
    """The ring with one more token in the place of the oldest."""
    end = cache.length + 1
    if torch.is_grad_enabled() and (k.requires_grad or cache.keys.requires_grad):
        return last_in_ring(*with_past(cache, k, v, window), end, window)
    held, room = min(cache.length, window), min(end, window)
    keys, values = (_with_room(x, held, room, window) for x in (cache.keys, cache.values))
    slot = cache.length % window
    keys[:, :, slot], values[:, :, slot] = k[:, :, 0], v[:, :, 0]
    return KVCache(keys, values, end)


def _with_room(buffer: Tensor, length: int, needed: int, at_most: int | None) -> Tensor:
    if needed <= buffer.shape[2]:
        return buffer
    room = max(needed, 2 * buffer.shape[2])  # doubling: a token costs O(1) copies on average
    room = room if at_most is None else max(needed, min(room, at_most))
    larger = buffer.new_zeros(*buffer.shape[:2], room, buffer.shape[3])
    larger[:, :, :length] = buffer[:, :, :length]
    return larger
