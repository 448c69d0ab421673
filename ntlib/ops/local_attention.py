"""Local attention: softmax attention in which every token attends to the last `window` tokens, the
present one included.

    y_t = sum_s softmax_s(q_t . k_s / sqrt(d)) v_s,   t - window < s <= t                       (1)

| here   | Longformer (2004.05150), Sec. 3.1                                     |
| ------ | --------------------------------------------------------------------- |
| window | w / 2 + 1: half of the sliding window, as nothing to the right is seen |

`parallel` is (1) with a mask, length^2 scores. `chunkwise` cuts queries into blocks of `window`,
each of which needs the keys of its own block and of the one before: 2 window scores per token,
exact, linear in length.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def local_attention(
    q: Float[Tensor, "batch heads length d_k"],
    k: Float[Tensor, "batch kv_heads keys d_k"],
    v: Float[Tensor, "batch kv_heads keys d_v"],
    window: int,
    *,
    form: str | None = None,
) -> Float[Tensor, "batch heads length d_v"]:
    """Evaluate (1). The queries belong to the last `length` of the keys, earlier keys are what was
    read before; query heads share keys in groups where there are more of them. `form` is
    "parallel" or "chunkwise"; None takes the one with fewer scores.

    Raises ValueError for fewer keys than queries, an empty sequence, window < 1 or another form.
    """
    length, keys = q.shape[2], k.shape[2]
    if not 1 <= length <= keys or window < 1:
        raise ValueError(
            "there must be at least one query, as many keys, and a window of at least 1; "
            f"got {length} queries, {keys} keys, window {window}"
        )
    needed = min(keys, length + window - 1)
    k, v = k[:, :, keys - needed :], v[:, :, keys - needed :]
    form = form or ("parallel" if length <= 2 * window else "chunkwise")
    if form == "parallel":
        return parallel(q, k, v, window)
    if form == "chunkwise":
        return chunkwise(q, k, v, window)
    raise ValueError(f"form must be 'parallel' or 'chunkwise', got {form!r}")


def parallel(q, k, v, window):
    """Eq. (1) with a mask."""
    length, keys = q.shape[2], k.shape[2]
    before = keys - length
    band = torch.ones(length, keys, dtype=torch.bool, device=q.device)
    return _attend(q, k, v, band.tril(before).triu(before - window + 1))


def chunkwise(q, k, v, window):
    """Eq. (1) in blocks: row i of a block sees columns i + 1 ... i + window of the two blocks of
    keys before and at it."""
    batch, _, length, _ = q.shape
    missing, behind = window - (k.shape[2] - length), -length % window
    q = F.pad(q, (0, 0, 0, behind)).unflatten(2, (-1, window))
    k, v = (F.pad(x, (0, 0, missing, behind)).unflatten(2, (-1, window)) for x in (k, v))
    k, v = (torch.cat([x[:, :, :-1], x[:, :, 1:]], dim=3) for x in (k, v))
    i, j = torch.arange(window, device=q.device)[:, None], torch.arange(2 * window, device=q.device)
    seen = ((j > i) & (j <= i + window)).repeat(q.shape[2], 1, 1)
    seen[0] &= j >= missing  # what was put in front of the first key
    seen = seen.expand(batch, *seen.shape).flatten(0, 1)[:, None]
    blocks = _attend(*(x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)), seen)
    out = blocks.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)
    return out[:, :, :length]


def _attend(q, k, v, mask):
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, enable_gqa=k.shape[1] < q.shape[1]
    )
