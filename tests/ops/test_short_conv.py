"""The short convolution: its forms against each other, against SciPy's filter and torch's
Conv1d."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from torch import nn

from ntlib.ops.compiled import reference
from ntlib.ops.short_conv import short_conv, short_conv_step
from tests.ops.battery import CHECKS, Operator, assert_same, outcome, prepared, relative

FORMS = ("recurrent", "parallel", "compiled")


def operator(width, activation, channels=5, bias=True):
    def inputs(length, generator):
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        named = {"x": draw(2, length, channels), "weight": draw(channels, width)}
        return named | ({"bias": draw(channels)} if bias else {})

    def state(inputs, generator):
        shape = (inputs["x"].shape[0], width - 1, channels)
        return (torch.randn(shape, generator=generator, dtype=torch.float64),) if width > 1 else ()

    def call(inputs, state, form):
        return short_conv(
            **inputs, state=state[0] if state else None, activation=activation, form=form
        )

    return Operator(call, inputs, state, FORMS, time={"x": 1})


OPERATORS = {
    "four taps": operator(4, None),
    "four taps, SiLU": operator(4, "silu"),
    "no bias": operator(4, "silu", bias=False),
    "two taps": operator(2, None, channels=33),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", OPERATORS)
def test_battery(name, check):
    check(OPERATORS[name])


@pytest.mark.parametrize("form", FORMS)
def test_the_definition_in_scipy(form):
    inputs, _ = prepared(OPERATORS["four taps"], 9)
    y, _ = short_conv(**inputs, form=form)
    x, weight, bias = (value.detach().numpy() for value in inputs.values())
    for c in range(x.shape[2]):
        # SciPy's first coefficient multiplies the current sample
        expected = lfilter(weight[c, ::-1], 1.0, x[:, :, c], axis=1) + bias[c]
        assert relative(y[:, :, c], torch.as_tensor(expected)) < 1e-14


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", [1, 3, 4])
def test_torch_conv1d(width, form):
    torch.manual_seed(width)
    conv = nn.Conv1d(6, 6, width, groups=6, padding=width - 1).double()
    x = torch.randn(3, 150, 6, dtype=torch.float64, requires_grad=True)
    expected = nn.functional.silu(conv(x.mT)[..., :150]).mT
    leaves = (x, conv.weight, conv.bias)
    y, _ = short_conv(x, conv.weight.squeeze(1), conv.bias, activation="silu", form=form)
    assert relative(y, expected) < 1e-13
    weights = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), leaves) for out in (y, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert relative(a, b) < 1e-13


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 300),
    width=st.sampled_from([2, 3, 4]),
    channels=st.integers(1, 20),
    activation=st.sampled_from([None, "silu"]),
    seed=st.integers(0, 2**16),
)
def test_forms_agree_at_any_size(length, width, channels, activation, seed):
    op = operator(width, activation, channels)
    inputs, state = prepared(op, length, seed=seed)
    definition = outcome(op, inputs, state, "parallel")
    assert_same(outcome(op, inputs, state, "compiled"), definition, 1e-10, "compiled")


@pytest.mark.parametrize("form", FORMS)
def test_a_width_of_one_has_an_empty_state(form):
    x, weight = torch.randn(2, 3, 4), torch.randn(4, 1)
    y, state = short_conv(x, weight, form=form)
    assert state.shape == (2, 0, 4)
    assert torch.equal(y, x * weight[:, 0])
    assert torch.equal(short_conv_step(x[:, 0], weight, None, state)[0], y[:, 0])


def test_the_state_is_the_last_inputs():
    x, weight = torch.randn(2, 9, 4), torch.randn(4, 4)
    for form in FORMS:
        assert torch.equal(short_conv(x, weight, form=form)[1], x[:, -3:])


def test_infinity_and_nan_reach_only_the_tokens_that_see_them():
    weight = torch.ones(1, 4)
    for value in (float("inf"), float("nan")):
        x = torch.zeros(1, 40, 1)
        x[0, 20] = value
        for form in FORMS:
            y, _ = short_conv(x, weight, form=form)
            assert (~y.isfinite()).flatten().nonzero().flatten().tolist() == [20, 21, 22, 23], form


@pytest.mark.parametrize("form", FORMS)
def test_silu_at_its_ends(form):
    x = torch.tensor([-1e30, -200.0, -90.0, 0.0, 90.0, 1e30]).view(1, 1, 6).requires_grad_()
    y, _ = short_conv(x, torch.ones(6, 1), activation="silu", form=form)
    assert torch.allclose(y, nn.functional.silu(x))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(grad, torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.0]))


def test_the_switch_gives_the_same():
    x, weight = torch.randn(2, 40, 6), torch.randn(6, 4)
    y, _ = short_conv(x, weight)
    with reference():
        assert relative(short_conv(x, weight)[0], y) < 1e-6


@pytest.mark.usefixtures("own_errors")
def test_bad_input_is_named():
    x, weight = torch.randn(2, 5, 4), torch.randn(4, 3)
    with pytest.raises(ValueError, match="x must be"):
        short_conv(x[0], weight)
    with pytest.raises(ValueError, match="length must be at least 1"):
        short_conv(x[:, :0], weight)
    with pytest.raises(ValueError, match=r"weight must be \(channels, width\) = \(4, at least 1\)"):
        short_conv(x, weight[:, None])
    with pytest.raises(ValueError, match=r"bias must be \(channels,\) = \(4,\)"):
        short_conv(x, weight, torch.zeros(3))
    with pytest.raises(ValueError, match=r"state must be \(batch, width - 1, channels\)"):
        short_conv(x, weight, state=torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="activation must be None or 'silu', got 'relu'"):
        short_conv(x, weight, activation="relu")
    with pytest.raises(ValueError, match="got 'chunkwise'"):
        short_conv(x, weight, form="chunkwise")
