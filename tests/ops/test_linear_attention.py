"""Linear attention: its forms against each other, against a plain loop in NumPy, and at the
edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlib.ops.linear_attention import linear_attention

FORMS = ("recurrent", "parallel", "chunkwise")


def inputs(length, *, batch=2, heads=3, d_k=4, d_v=5, dtype=torch.float64, seed=0, decay=True):
    generator = torch.Generator().manual_seed(seed)
    q, k = (
        torch.randn(batch, heads, length, d_k, generator=generator, dtype=dtype) for _ in range(2)
    )
    v = torch.randn(batch, heads, length, d_v, generator=generator, dtype=dtype)
    state = torch.randn(batch, heads, d_k, d_v, generator=generator, dtype=dtype)
    log_decay = -torch.rand(heads, generator=generator, dtype=dtype) if decay else None
    return q, k, v, log_decay, state


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


def test_the_definition_in_numpy():
    q, k, v, log_decay, state = inputs(7)
    out, final = linear_attention(q, k, v, log_decay, state=state, form="recurrent")
    s = state.numpy().copy()
    for t in range(7):
        s = np.exp(log_decay.numpy())[None, :, None, None] * s + np.einsum(
            "bhk,bhv->bhkv", k[:, :, t], v[:, :, t]
        )
        assert np.allclose(
            out[:, :, t], np.einsum("bhk,bhkv->bhv", q[:, :, t], s), rtol=1e-12, atol=1e-12
        )
    assert np.allclose(final, s, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 70),
    chunk_size=st.integers(1, 80),
    d_k=st.integers(1, 6),
    d_v=st.integers(1, 6),
    decay=st.sampled_from([None, 0.0, -1e-4, -0.7, -50.0]),
)
def test_forms_agree_in_outputs_states_and_gradients(length, chunk_size, d_k, d_v, decay):
    results = {}
    for form in FORMS:
        q, k, v, _, state = inputs(length, d_k=d_k, d_v=d_v, seed=length)
        log_decay = (
            None
            if decay is None
            else torch.full((3,), decay, dtype=torch.float64) * torch.tensor([1.0, 0.5, 0.1])
        )
        leaves = [q, k, v, state] + ([] if decay is None else [log_decay])
        for leaf in leaves:
            leaf.requires_grad_()
        out, final = linear_attention(
            q, k, v, log_decay, state=state, form=form, chunk_size=chunk_size
        )
        (out.sin().sum() + final.cos().sum()).backward()
        results[form] = [out, final, *(leaf.grad for leaf in leaves)]
    for form in ("parallel", "chunkwise"):
        for ours, definition in zip(results[form], results["recurrent"], strict=True):
            assert (ours - definition).abs().max() <= 1e-10 * definition.abs().max().clamp(min=1)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_match_finite_differences(form):
    q, k, v, log_decay, state = (
        x.requires_grad_() for x in inputs(5, batch=1, heads=2, d_k=2, d_v=3)
    )
    assert torch.autograd.gradcheck(
        lambda *x: linear_attention(*x[:4], state=x[4], form=form, chunk_size=2),
        (q, k, v, log_decay, state),
    )


@pytest.mark.parametrize("cut", range(1, 9))
@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_may_be_cut_anywhere(form, cut):
    q, k, v, log_decay, state = inputs(9)
    whole, final = linear_attention(q, k, v, log_decay, state=state, form=form, chunk_size=4)
    first, middle = linear_attention(
        *(x[:, :, :cut] for x in (q, k, v)), log_decay, state=state, form=form, chunk_size=4
    )
    second, end = linear_attention(
        *(x[:, :, cut:] for x in (q, k, v)), log_decay, state=middle, form=form, chunk_size=4
    )
    assert relative(torch.cat([first, second], dim=2), whole) < 1e-12
    assert relative(end, final) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_normalised_weights_sum_to_one(form):
    q, k, v, _, _ = inputs(33)
    q, k = q.abs(), k.abs()
    out, state = linear_attention(q, k, torch.ones_like(v), normalise=True, form=form, chunk_size=8)
    assert torch.allclose(out, torch.ones_like(out))
    assert state.shape == (2, 3, 4, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_stays_close_over_a_long_sequence(dtype):
    q, k, v, _, _ = inputs(4096, batch=1, dtype=torch.float64)
    log_decay = torch.log1p(-(2.0 ** -torch.tensor([2.0, 6.0, 12.0], dtype=torch.float64)))
    q, k, v = (x.to(dtype) for x in (q, k, v))
    exact, _ = linear_attention(q.double(), k.double(), v.double(), log_decay)
    out, state = linear_attention(q, k, v, log_decay.float())
    assert state.dtype == torch.float32
    assert out.dtype == dtype
    assert relative(out.double(), exact) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.usefixtures("own_errors")
def test_bad_input_is_named():
    q, k, v, log_decay, state = inputs(4)
    with pytest.raises(ValueError, match="length must be at least 1"):
        linear_attention(q[:, :, :0], k[:, :, :0], v[:, :, :0])
    with pytest.raises(ValueError, match="q, k, v must be"):
        linear_attention(q, k[..., :2], v)
    with pytest.raises(ValueError, match="log_decay must be <= 0"):
        linear_attention(q, k, v, -log_decay)
    with pytest.raises(ValueError, match=r"log_decay must be \(heads,\) = \(3,\)"):
        linear_attention(q, k, v, log_decay[:2])
    with pytest.raises(ValueError, match="state must be"):
        linear_attention(q, k, v, state=state[..., :2])
    with pytest.raises(ValueError, match="got 'chunked'"):
        linear_attention(q, k, v, form="chunked")
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        linear_attention(q, k, v, chunk_size=0)
