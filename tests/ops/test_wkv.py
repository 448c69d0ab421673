"""wkv: the battery, the definition with plain exponentials in NumPy, extreme keys and decays, long
sequences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlib.ops.compiled import reference
from ntlib.ops.wkv import WKVState, empty_state, wkv
from ntlib.ops.wkv_kernel import TILE, WIDTH
from tests.ops import battery

FORMS = ("recurrent", "parallel", "chunkwise", "compiled")


def inputs(length, generator, batch=2, channels=5):
    randn = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return {
        "k": 2 * randn(batch, length, channels),
        "v": randn(batch, length, channels),
        "log_decay": -randn(channels).exp(),
        "bonus": randn(channels),
    }


def initial(given, generator):
    a, b, p = torch.randn(3, *given["k"][:, 0].shape, generator=generator, dtype=torch.float64)
    return a, b.exp(), p


def prepared(length, seed=0, **sizes):
    generator = torch.Generator().manual_seed(seed)
    given = inputs(length, generator, **sizes)
    return given, initial(given, generator)


WKV = battery.Operator(
    call=lambda given, state, form: wkv(**given, state=state, form=form, chunk_size=4),
    inputs=inputs,
    state=initial,
    forms=FORMS,
    time={"k": 1, "v": 1},
)


@pytest.mark.parametrize("check", battery.CHECKS, ids=lambda check: check.__name__)
def test_battery(check):
    check(WKV)


def plain(k, v, log_decay, bonus, state=None):
    """Eq. (1) and (2) with exponentials as they stand."""
    a, b, p = (0, 0, 0) if state is None else state
    numerator, denominator, out = a * np.exp(p), b * np.exp(p), np.empty_like(v)
    for t in range(k.shape[1]):
        now = np.exp(bonus + k[:, t])
        out[:, t] = (numerator + now * v[:, t]) / (denominator + now)
        numerator = np.exp(log_decay) * numerator + np.exp(k[:, t]) * v[:, t]
        denominator = np.exp(log_decay) * denominator + np.exp(k[:, t])
    return out, numerator, denominator


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fresh", [True, False])
def test_the_definition_in_numpy(form, fresh):
    given, state = prepared(21)
    state = None if fresh else state
    out, (a, b, p) = wkv(**given, state=state, form=form)
    arrays = {name: x.numpy() for name, x in given.items()}
    expected, numerator, denominator = plain(
        **arrays, state=None if fresh else [x.numpy() for x in state]
    )
    assert np.allclose(out, expected, rtol=1e-12, atol=1e-12)
    assert np.allclose(a * p.exp(), numerator, rtol=1e-11, atol=1e-12)
    assert np.allclose(b * p.exp(), denominator, rtol=1e-11)


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 3 * TILE + 1),
    cut=st.integers(0, 3 * TILE),
    chunk_size=st.integers(1, 40),
    channels=st.sampled_from([1, 3, WIDTH - 1, WIDTH, WIDTH + 1, 2 * WIDTH + 7]),
    decay=st.sampled_from([0.0, 1e-5, 0.3, 5.0, 50.0]),
    scale=st.sampled_from([0.1, 3.0, 1000.0]),
)
def test_forms_agree_for_any_shape_decay_and_cut(length, cut, chunk_size, channels, decay, scale):
    given, state = prepared(length, length, batch=2, channels=channels)
    given["k"] = given["k"] * scale
    given["log_decay"] = given["log_decay"] * decay
    whole = {}
    for form in FORMS:
        leaves = {name: x.clone().requires_grad_() for name, x in given.items()}
        start = tuple(x.clone().requires_grad_() for x in state)
        side, pieces, now = cut % length, [], start
        for piece in filter(None, (slice(0, side) if side else None, slice(side, length))):
            parts = {n: x[:, piece] if n in "kv" else x for n, x in leaves.items()}
            out, now = wkv(**parts, state=now, form=form, chunk_size=chunk_size)
            pieces.append(out)
        out = torch.cat(pieces, dim=1)
        loss = out.sin().sum() + (now.numerator / now.denominator).cos().sum()
        grads = torch.autograd.grad(loss, [*leaves.values(), *start], allow_unused=True)
        whole[form] = [out, *now, *grads]
    for form in FORMS[1:]:
        for ours, definition in zip(whole[form], whole["recurrent"], strict=True):
            assert ours.isfinite().all()
            error = (ours - definition).abs().max()
            assert error <= 1e-9 * definition.abs().max().clamp(min=1), form


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("log_decay", [0.0, -50.0, -1e4])
@pytest.mark.parametrize("scale", [80.0, 1000.0])
def test_float32_survives_extreme_keys_and_decays(form, log_decay, scale):
    given, _ = prepared(50)
    given["k"] = (scale * given["k"].sign()) + given["k"]
    given["log_decay"] = torch.full_like(given["log_decay"], log_decay)
    leaves = {name: x.float().requires_grad_() for name, x in given.items()}
    out, state = wkv(**leaves, form=form)
    grads = torch.autograd.grad(out.sin().sum(), list(leaves.values()))
    exact, exact_state = wkv(**{name: x.detach().double() for name, x in leaves.items()})
    assert battery.relative(out.double(), exact) < 2e-4  # k itself is rounded at 1000 * 2^-24
    assert all(x.isfinite().all() for x in (*state, *grads))
    for ours, theirs in zip(state, exact_state, strict=True):
        assert battery.relative(ours.double(), theirs) < 2e-4


@pytest.mark.parametrize("form", FORMS)
def test_two_names_of_one_state_continue_alike(form):
    """(a, b, p) and (a e^c, b e^c, p - c) stand for the same sums."""
    given, (a, b, p) = prepared(9)
    other = (a * np.exp(3.0), b * np.exp(3.0), p - 3)
    first, second = wkv(**given, state=(a, b, p), form=form), wkv(**given, state=other, form=form)
    assert battery.relative(second[0], first[0]) < 1e-12
    for one, two in ((0, 0), (1, 1)):
        sums = [state[one] * state.exponent.exp() for _, state in (first, second)]
        assert battery.relative(sums[two], sums[0]) < 1e-12


def test_a_sum_that_is_carried_on_has_nothing_left_for_its_maximum():
    """Eq. (4), which training over a cut relies on."""
    given, state = prepared(6)
    state = WKVState(*(x.requires_grad_() for x in state))
    loss = wkv(**given, state=state)[0].sin().sum()
    d_a, d_b, d_p = torch.autograd.grad(loss, state)
    assert (d_p - state.numerator * d_a - state.denominator * d_b).abs().max() < 1e-13


def test_the_start_survives_gradients():
    given, _ = prepared(3)
    state = WKVState(*(x.requires_grad_() for x in empty_state(given["k"])))
    for form in FORMS:
        loss = wkv(**given, state=state, form=form)[0].sum()
        assert all(x.isfinite().all() for x in torch.autograd.grad(loss, state)), form


@pytest.mark.slow
def test_a_million_tokens_in_float32():
    """The slowest channel sums all of them, and 1 - 1e-6 has an error of 3% of 1e-6 in float32."""
    generator = torch.Generator().manual_seed(0)
    given = inputs(2**20, generator, batch=1, channels=4)
    given["log_decay"] = -torch.tensor([1e-6, 1e-3, 1.0, 50.0], dtype=torch.float64)
    out, state = wkv(**{name: x.float() for name, x in given.items()})
    exact, exact_state = wkv(**{name: x.float().double() for name, x in given.items()})
    assert (out - exact).abs().max() < 5e-4
    sums = [s.numerator.double() / s.denominator.double() for s in (state, exact_state)]
    assert (sums[0] - sums[1]).abs().max() < 5e-4


def test_a_nan_stays_a_nan():
    given, _ = prepared(40)
    given["k"][0, 20, 0] = float("nan")
    for form in ("recurrent", "compiled"):
        out, _ = wkv(**given, form=form)
        assert out[0, 20:, 0].isnan().all(), form
        assert out[0, :20].isfinite().all(), form
        assert out[1].isfinite().all(), form


def test_kernels_may_be_switched_off():
    given, state = prepared(40)
    ours = wkv(**given, state=state)[0]
    with reference():
        assert battery.relative(wkv(**given, state=state)[0], ours) < 1e-12


@pytest.mark.usefixtures("own_errors")
def test_bad_input_is_named():
    given, state = prepared(4)
    k, v, log_decay, bonus = given.values()
    with pytest.raises(ValueError, match=r"k and v must be \(batch, length, channels\)"):
        wkv(k, v[:, :2], log_decay, bonus)
    with pytest.raises(ValueError, match=r"log_decay must be \(channels,\) = \(5,\), got \(2,\)"):
        wkv(k, v, log_decay[:2], bonus)
    with pytest.raises(ValueError, match=r"bonus must be \(channels,\) = \(5,\), got \(2,\)"):
        wkv(k, v, log_decay, bonus[:2])
    with pytest.raises(ValueError, match="log_decay must be <= 0"):
        wkv(k, v, -log_decay, bonus)
    with pytest.raises(ValueError, match="state must be three tensors"):
        wkv(k, v, log_decay, bonus, state=state[:2])
    with pytest.raises(ValueError, match="got 'chunked'"):
        wkv(k, v, log_decay, bonus, form="chunked")
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        wkv(k, v, log_decay, bonus, chunk_size=0)
