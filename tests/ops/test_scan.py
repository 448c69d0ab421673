"""The elementwise scan: the battery, NumPy, SciPy, mambapy, and the edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlib.ops.compiled import reference
from ntlib.ops.scan import scan
from tests.ops import battery

FORMS = ("recurrent", "parallel", "chunkwise", "compiled")
CHANNELS = 21


def drawn(*shape, complex_=False, generator):
    dtype = torch.complex128 if complex_ else torch.float64
    return torch.randn(*shape, dtype=dtype, generator=generator)


def operator(*, complex_a=False, complex_b=False, fixed=False):
    def inputs(length, generator):
        shape = (CHANNELS,) if fixed else (2, length, CHANNELS)
        a = drawn(*shape, complex_=complex_a, generator=generator)
        a = 1.05 * a / (1 + a.abs())  # some above 1 (0 and far above: tests of their own)
        return {"a": a, "b": drawn(2, length, CHANNELS, complex_=complex_b, generator=generator)}

    def call(inputs, state, form):
        return scan(**inputs, state=state and state[0], form=form, chunk_size=4)

    def state(inputs, generator):
        return (drawn(2, CHANNELS, complex_=complex_a or complex_b, generator=generator),)

    time = {"b": 1} if fixed else {"a": 1, "b": 1}
    return battery.Operator(call, inputs, state, FORMS, time, keep_float32=frozenset({"a"}))


OPERATORS = {
    "real": operator(),
    "real, fixed": operator(fixed=True),
    "complex": operator(complex_a=True, complex_b=True),
    "complex, fixed": operator(complex_a=True, complex_b=True, fixed=True),
    "complex a, real b": operator(complex_a=True),
}


# bfloat16 has no complex numbers
COMBINATIONS = {
    f"{check.__name__}, {name}": (check, op)
    for name, op in OPERATORS.items()
    for check in battery.CHECKS
    if name == "real" or check is not battery.bfloat16_inputs_keep_a_float32_state
}


@pytest.mark.parametrize(("check", "op"), COMBINATIONS.values(), ids=COMBINATIONS.keys())
def test_battery(check, op):
    check(op)


def test_the_definition_in_numpy():
    generator = torch.Generator().manual_seed(0)
    a, b = (drawn(2, 7, 3, generator=generator) for _ in "ab")
    state = drawn(2, 3, generator=generator)
    h, final = scan(a, b, state=state, form="recurrent")
    expected = state.numpy()
    for t in range(7):
        expected = a[:, t].numpy() * expected + b[:, t].numpy()
        assert np.allclose(h[:, t], expected, rtol=1e-14, atol=1e-14)
    assert np.allclose(final, expected, rtol=1e-14, atol=1e-14)


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 70),
    batch=st.integers(1, 3),
    channels=st.integers(1, 40),
    chunk_size=st.integers(1, 80),
    scale=st.sampled_from([0.0, 1e-30, 0.5, 1.0, 1.3]),
    cut=st.floats(0, 1),
)
def test_forms_agree_for_any_shape_decay_and_cut(length, batch, channels, chunk_size, scale, cut):
    generator = torch.Generator().manual_seed(length)
    a = scale * (2 * torch.rand(batch, length, channels, generator=generator).double() - 1)
    b = drawn(batch, length, channels, generator=generator)
    definition, final = scan(a, b, form="recurrent")
    cut = round(cut * length)
    for form in FORMS[1:]:
        first, state = scan(a[:, :cut], b[:, :cut], form=form) if cut else (b[:, :0], None)
        if cut < length:
            second, state = scan(
                a[:, cut:], b[:, cut:], state=state, form=form, chunk_size=chunk_size
            )
            first = torch.cat([first, second], dim=1)
        assert torch.allclose(first, definition, rtol=1e-12, atol=1e-12)
        assert torch.allclose(state, final, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_what_a_forgets_is_gone(form):
    """a = 0 cuts the past off exactly, forwards and backwards."""
    generator = torch.Generator().manual_seed(0)
    a, b = (drawn(1, 9, 2, generator=generator) for _ in "ab")
    a[:, 5] = 0
    a.requires_grad_(), b.requires_grad_()
    h, _ = scan(a, b, form=form, chunk_size=4)
    assert torch.equal(h[:, 5], b[:, 5])
    grad_a, grad_b = torch.autograd.grad(h[:, 5:].sum(), (a, b))
    assert grad_b[:, :5].abs().max() == 0
    assert grad_a[:, :5].abs().max() == 0
    assert grad_a[:, 5].abs().min() > 0  # it does depend on h_4


@pytest.mark.parametrize("form", FORMS)
def test_a_nan_does_not_come_out_clean(form):
    a, b = torch.full((1, 8, 17), 0.5), torch.ones(1, 8, 17)
    a[0, 3, 2], b[0, 4, 5] = torch.nan, torch.nan
    h, _ = scan(a, b, form=form)
    bad = h.isnan()
    assert bad[0, 3:, 2].all()
    assert bad[0, 4:, 5].all()
    assert bad.sum() == 5 + 4


@pytest.mark.parametrize("complex_", [False, True])
def test_scipys_filter(complex_):
    signal = pytest.importorskip("scipy.signal")
    generator = torch.Generator().manual_seed(0)
    a, b = (drawn(*shape, complex_=complex_, generator=generator) for shape in ((3,), (1, 200, 3)))
    a = 0.95 * a / a.abs()
    h, _ = scan(a, b)
    for channel in range(3):
        expected = signal.lfilter([1], [1, -a[channel].item()], b[0, :, channel].numpy())
        assert np.allclose(h[0, :, channel], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_mambapys_parallel_scan(form):
    pscan = pytest.importorskip("mambapy.pscan", reason="benchmarks/requirements.txt").pscan
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 37, 15, generator=generator).double().requires_grad_()
    b = drawn(2, 37, 15, generator=generator).requires_grad_()
    ours, _ = scan(a, b, form=form)
    theirs = pscan(a.unflatten(2, (5, 3)), b.unflatten(2, (5, 3))).flatten(2)
    assert battery.relative(ours, theirs) < 1e-13
    grads = (torch.autograd.grad(h.sin().sum(), (a, b)) for h in (ours, theirs))
    for our_grad, their_grad in zip(*grads, strict=True):
        assert battery.relative(our_grad, their_grad) < 1e-12


@pytest.mark.slow
def test_a_million_steps_in_float32():
    """Rotations that forget slowly, over 2^20 steps: within 1e-4 of float64."""
    generator = torch.Generator().manual_seed(0)
    a = torch.polar(
        torch.tensor([0.9, 0.999, 0.99999]).double(), torch.tensor([0.1, 1, 3]).double()
    )
    b = drawn(1, 2**20, 3, complex_=True, generator=generator).to(torch.complex64)
    a = a.to(torch.complex64)
    h, final = scan(a, b)
    exact, _ = scan(a.to(torch.complex128), b.to(torch.complex128))
    assert h.isfinite().all()
    assert final.isfinite().all()
    assert battery.relative(h.to(torch.complex128), exact) < 1e-4


def test_the_switch_gives_the_same():
    generator = torch.Generator().manual_seed(0)
    a, b = (drawn(2, 200, 5, generator=generator).sigmoid() for _ in "ab")
    h, final = scan(a, b)
    with reference():
        expected, expected_final = scan(a, b)
    assert torch.allclose(h, expected, rtol=1e-12)
    assert torch.allclose(final, expected_final, rtol=1e-12)


@pytest.mark.usefixtures("own_errors")
def test_bad_input_is_named():
    a = b = torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match="length must be at least 1"):
        scan(a[:, :0], b[:, :0])
    with pytest.raises(ValueError, match=r"a the same or \(channels,\); got a \(2, 4, 2\)"):
        scan(a[..., :2], b)
    with pytest.raises(ValueError, match=r"state must be \(batch, channels\) = \(2, 3\)"):
        scan(a, b, state=a[:, 0, :2])
    with pytest.raises(ValueError, match="got 'chunked'"):
        scan(a, b, form="chunked")
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        scan(a, b, chunk_size=0)
