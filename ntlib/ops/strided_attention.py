"""Strided attention: softmax attention in which half of the heads attend to the last `stride`
tokens, the present one included, and the other half to every `stride`-th token, from the present
one backwards.

    y_t = sum_s softmax_s(q_t . k_s / sqrt(d)) v_s
    first half of the heads:    t - stride < s <= t                                             (1)
    second half of the heads:   s <= t,  t - s divisible by stride                              (2)

| here   | Sparse Transformers (1904.10509), Sec. 4.2                        |
| ------ | ----------------------------------------------------------------- |
| stride | l; A^(1) is (1) and A^(2) is (2), dealt out to the heads, Sec. 4.3 |

Two layers connect any two tokens: s is in the window of a token that is a multiple of `stride`
away from t. For that a token has about stride + length / stride scores, shared by two heads.

`parallel` is (1) and (2) with masks, length^2 scores. `chunkwise` computes no other scores than
these (and the blocks of local attention): tokens of one residue modulo `stride` attend among
themselves.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ntlib.ops.local_attention import local_attention


def strided_attention(
    q: Float[Tensor, "batch heads length d_k"],
    k: Float[Tensor, "batch kv_heads keys d_k"],
    v: Float[Tensor, "batch kv_heads keys d_v"],
    stride: int,
    *,
    form: str | None = None,
) -> Float[Tensor, "batch heads length d_v"]:
    """Evaluate (1) and (2). The queries belong to the last `length` of the keys; query heads share
    keys in groups where there are more of them. `form` is "parallel" or "chunkwise", which wants
    as many queries as keys, or one; None takes it wherever it can.

    Raises ValueError for fewer keys than queries, an empty sequence, stride < 1, odd numbers of
    heads, or another form.
    """
    length, keys = q.shape[2], k.shape[2]
    if not 1 <= length <= keys or stride < 1:
        raise ValueError(
            "there must be at least one query, as many keys, and a stride of at least 1; "
            f"got {length} queries, {keys} keys, stride {stride}"
        )
    if q.shape[1] % 2 or k.shape[1] % 2:
        raise ValueError(f"heads must be even in number, got {q.shape[1]} and {k.shape[1]}")
    form = form or ("chunkwise" if length in (1, keys) else "parallel")
    if form not in ("parallel", "chunkwise"):
        raise ValueError(f"form must be 'parallel' or 'chunkwise', got {form!r}")
    if form == "chunkwise" and length not in (1, keys):
        raise ValueError(f"chunkwise needs 1 query or as many as keys = {keys}, got {length}")
    local, column = zip(*(part.chunk(2, dim=1) for part in (q, k, v)), strict=True)
    if form == "parallel":
        columns = _masked(*column, stride)
    elif length == 1:
        columns = _attend(column[0], *(x[:, :, (keys - 1) % stride :: stride] for x in column[1:]))
    else:
        columns = _by_residue(*column, stride)
    local_form = "chunkwise" if form == "chunkwise" and length > 2 * stride else "parallel"
    return torch.cat([local_attention(*local, stride, form=local_form), columns], dim=1)


def _masked(q, k, v, stride):
    """Eq. (2) over the whole square."""
    length, keys = q.shape[2], k.shape[2]
    lag = torch.arange(keys - length, keys, device=q.device)[:, None]
    lag = lag - torch.arange(keys, device=q.device)
    return _attend(q, k, v, attn_mask=(lag >= 0) & (lag % stride == 0))


def _by_residue(q, k, v, stride):
    """Eq. (2), causal attention among the tokens of each residue; those that are missing in the
    last row would be later than all others."""
    batch, length = q.shape[0], q.shape[2]
    behind = -length % stride
    rows = (F.pad(x, (0, 0, 0, behind)).unflatten(2, (-1, stride)) for x in (q, k, v))
    q, k, v = (x.permute(0, 3, 1, 2, 4).flatten(0, 1) for x in rows)
    out = _attend(q, k, v, is_causal=True).unflatten(0, (batch, stride))
    return out.permute(0, 2, 3, 1, 4).flatten(2, 3)[:, :, :length]


def _attend(q, k, v, **mask):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=k.shape[1] < q.shape[1], **mask)
