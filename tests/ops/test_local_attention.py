"""Local attention: its two forms, its window, and what is refused."""

import pytest
import torch

from ntlib.ops.local_attention import local_attention


def inputs(length, keys, heads=4, kv_heads=4, batch=2):
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, length, 6), (kv_heads, keys, 6), (kv_heads, keys, 5))
    return [torch.randn(batch, *s, generator=generator, dtype=torch.float64) for s in shapes]


def by_hand(q, k, v, window):
    """Eq. (1), query by query."""
    before = k.shape[2] - q.shape[2]
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    outputs = []
    for t in range(q.shape[2]):
        seen = slice(max(0, before + t - window + 1), before + t + 1)
        scores = torch.einsum("bhd,bhsd->bhs", q[:, :, t], k[:, :, seen]) / q.shape[-1] ** 0.5
        outputs.append(torch.einsum("bhs,bhsd->bhd", scores.softmax(-1), v[:, :, seen]))
    return torch.stack(outputs, dim=2)


@pytest.mark.parametrize("form", ["parallel", "chunkwise", None])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("window", [1, 3, 8, 40])
@pytest.mark.parametrize(("length", "before"), [(1, 0), (17, 0), (24, 5), (5, 30)])
def test_all_forms_are_the_definition(form, kv_heads, window, length, before):
    q, k, v = inputs(length, length + before, kv_heads=kv_heads)
    y = local_attention(q, k, v, window, form=form)
    assert (y - by_hand(q, k, v, window)).abs().max() < 1e-12


def test_gradients_agree():
    gradients = []
    for form in ("parallel", "chunkwise"):
        given = [x.requires_grad_() for x in inputs(19, 23)]
        y = local_attention(*given, 4, form=form)
        gradients.append(torch.autograd.grad(y.sin().sum(), given))
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() < 1e-12


def test_a_window_as_long_as_the_sequence_is_attention():
    q, k, v = inputs(20, 20)
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert (local_attention(q, k, v, 20) - full).abs().max() < 1e-12


def test_errors_are_named(own_errors):
    q, k, v = inputs(5, 4)
    with pytest.raises(ValueError, match="got 5 queries, 4 keys, window 2"):
        local_attention(q, k, v, 2)
    q, k, v = inputs(4, 4)
    with pytest.raises(ValueError, match="got 4 queries, 4 keys, window 0"):
        local_attention(q, k, v, 0)
    with pytest.raises(ValueError, match="form must be 'parallel' or 'chunkwise', got 'x'"):
        local_attention(q, k, v, 2, form="x")
