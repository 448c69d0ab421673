"""Strided attention: its two forms, its pattern, and what is refused."""

import pytest
import torch

from ntlib.ops.strided_attention import strided_attention
from tests.ops.test_local_attention import inputs


def by_hand(q, k, v, stride):
    """Eq. (1) and (2), query by query and head by head."""
    before, heads = k.shape[2] - q.shape[2], q.shape[1]
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    for t in range(q.shape[2]):
        for head in range(heads):
            present = before + t
            local = range(max(0, present - stride + 1), present + 1)
            seen = list(
                local if head < heads // 2 else range(present % stride, present + 1, stride)
            )
            scores = torch.einsum("bd,bsd->bs", q[:, head, t], k[:, head, seen]) / q.shape[3] ** 0.5
            out[:, head, t] = torch.einsum("bs,bsd->bd", scores.softmax(-1), v[:, head, seen])
    return out


@pytest.mark.parametrize("form", ["parallel", "chunkwise", None])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("stride", [1, 3, 8, 40])
@pytest.mark.parametrize(("length", "before"), [(1, 0), (1, 17), (17, 0), (24, 0), (5, 30)])
def test_all_forms_are_the_definition(form, kv_heads, stride, length, before):
    q, k, v = inputs(length, length + before, kv_heads=kv_heads)
    if form == "chunkwise" and before and length > 1:
        with pytest.raises(ValueError, match="needs 1 query or as many as keys = 35, got 5"):
            strided_attention(q, k, v, stride, form=form)
        return
    y = strided_attention(q, k, v, stride, form=form)
    assert (y - by_hand(q, k, v, stride)).abs().max() < 1e-12


def test_gradients_agree():
    gradients = []
    for form in ("parallel", "chunkwise"):
        given = [x.requires_grad_() for x in inputs(19, 19)]
        y = strided_attention(*given, 4, form=form)
        gradients.append(torch.autograd.grad(y.sin().sum(), given))
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() < 1e-12


def test_two_layers_connect_every_pair():
    """By either order of the two kinds of heads; one layer does not."""
    t = torch.arange(30)
    lag = t[:, None] - t
    local, column = (lag >= 0) & (lag < 5), (lag >= 0) & (lag % 5 == 0)
    earlier = torch.ones(30, 30).tril().bool()
    assert not torch.equal(local | column, earlier)
    assert torch.equal((column.float() @ local.float()) > 0, earlier)
    assert torch.equal((local.float() @ column.float()) > 0, earlier)


def test_errors_are_named(own_errors):
    q, k, v = inputs(5, 4)
    with pytest.raises(ValueError, match="got 5 queries, 4 keys, stride 2"):
        strided_attention(q, k, v, 2)
    q, k, v = inputs(4, 4)
    with pytest.raises(ValueError, match="got 4 queries, 4 keys, stride 0"):
        strided_attention(q, k, v, 0)
    with pytest.raises(ValueError, match="form must be 'parallel' or 'chunkwise', got 'x'"):
        strided_attention(q, k, v, 2, form="x")
    q, k, v = inputs(4, 4, heads=3, kv_heads=3)
    with pytest.raises(ValueError, match="heads must be even in number, got 3 and 3"):
        strided_attention(q, k, v, 2)
