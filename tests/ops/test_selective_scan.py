"""Mamba's selective scan: the battery, NumPy, mambapy, the official reference's numbers, and the
edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from benchmarks import golden_selective_scan
from ntlib.ops.compiled import reference
from ntlib.ops.selective_scan import selective_scan
from tests.ops import battery

FORMS = ("recurrent", "parallel", "chunkwise", "compiled")
CHANNELS, D_STATE = 19, 5


def drawn(*shape, generator):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def inputs(length, generator, *, batch=2, channels=CHANNELS, d_state=D_STATE):
    def draw(*shape):
        return drawn(*shape, generator=generator)

    return {
        "x": draw(batch, length, channels),
        "delta": draw(batch, length, channels).sigmoid() / 4,
        "A": -draw(channels, d_state).exp(),
        "B": draw(batch, length, d_state),
        "C": draw(batch, length, d_state),
        "D": draw(channels),
        "gate": draw(batch, length, channels),
    }


def operator(*without):
    def given(length, generator):
        named = inputs(length, generator)
        return {name: x for name, x in named.items() if name not in without}

    def call(inputs, state, form):
        return selective_scan(**inputs, state=state and state[0], form=form, chunk_size=4)

    def state(inputs, generator):
        return (drawn(2, CHANNELS, D_STATE, generator=generator),)

    time = {name: 1 for name in ("x", "delta", "B", "C", "gate") if name not in without}
    return battery.Operator(call, given, state, FORMS, time)


OPERATORS = {"whole": operator(), "no gate": operator("gate"), "no D": operator("D")}


@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS.keys())
@pytest.mark.parametrize("check", battery.CHECKS, ids=lambda check: check.__name__)
def test_battery(check, op):
    check(op)


def test_the_definition_in_numpy():
    generator = torch.Generator().manual_seed(0)
    named = inputs(7, generator)
    state = drawn(2, CHANNELS, D_STATE, generator=generator)
    y, final = selective_scan(**named, state=state, form="recurrent")
    x, delta, A, B, C, D, gate = (value.numpy() for value in named.values())
    h = state.numpy()
    for t in range(7):
        h = np.exp(delta[:, t, :, None] * A) * h
        h = h + np.einsum("bc,bn->bcn", delta[:, t] * x[:, t], B[:, t])
        expected = np.einsum("bcn,bn->bc", h, C[:, t]) + D * x[:, t]
        expected = expected * gate[:, t] / (1 + np.exp(-gate[:, t]))
        assert np.allclose(y[:, t], expected, rtol=1e-12, atol=1e-12)
    assert np.allclose(final, h, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 70),
    batch=st.integers(1, 3),
    channels=st.integers(1, 40),
    d_state=st.integers(1, 18),
    chunk_size=st.integers(1, 80),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e3]),
    cut=st.floats(0, 1),
)
def test_forms_agree_for_any_shape_decay_and_cut(
    length, batch, channels, d_state, chunk_size, scale, cut
):
    generator = torch.Generator().manual_seed(length)
    named = inputs(length, generator, batch=batch, channels=channels, d_state=d_state)
    named["A"] = named["A"] * scale
    definition, final = selective_scan(**named, form="recurrent")
    cut = round(cut * length)
    for form in FORMS[1:]:
        outputs, state = [], None
        for start, end in ((0, cut), (cut, length)):
            if start < end:
                part = {n: x[:, start:end] if x.dim() == 3 else x for n, x in named.items()}
                y, state = selective_scan(**part, state=state, form=form, chunk_size=chunk_size)
                outputs.append(y)
        assert torch.allclose(torch.cat(outputs, 1), definition, rtol=1e-11, atol=1e-11)
        assert torch.allclose(state, final, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("strongest", [-1e-8, -88.0, -1e5])
def test_extreme_decays_in_float32(form, strongest):
    """Outputs and all gradients equal those of float64; nothing overflows."""
    named = inputs(200, torch.Generator().manual_seed(0))
    named["A"] = strongest * torch.linspace(0.01, 1, CHANNELS * D_STATE).double().view(-1, D_STATE)
    results = {}
    for dtype, chosen in ((torch.float64, "recurrent"), (torch.float32, form)):
        leaves = {name: x.to(dtype).requires_grad_() for name, x in named.items()}
        y, final = selective_scan(**leaves, form=chosen)
        grads = torch.autograd.grad(y.sin().sum() + final.sin().sum(), list(leaves.values()))
        results[dtype] = [y, final, *grads]
    for ours, exact in zip(results[torch.float32], results[torch.float64], strict=True):
        assert ours.isfinite().all()
        assert battery.relative(ours.double(), exact) < 1e-4


@pytest.mark.parametrize("name", ["x", "delta", "A", "B", "C", "D", "gate"])
def test_a_nan_does_not_come_out_clean(name):
    generator = torch.Generator().manual_seed(0)
    named = {key: x.float() for key, x in inputs(40, generator).items()}
    named[name].view(-1)[0] = torch.nan
    outputs = {
        form: selective_scan(**named, form=form)[0].isnan() for form in ("recurrent", "compiled")
    }
    assert outputs["compiled"].any()
    assert torch.equal(outputs["compiled"], outputs["recurrent"])


@pytest.mark.parametrize("form", FORMS)
def test_mambapys_selective_scan(form):
    mamba = pytest.importorskip("mambapy.mamba", reason="benchmarks/requirements.txt")
    block = mamba.MambaBlock(mamba.MambaConfig(d_model=8, n_layers=1))
    named = inputs(37, torch.Generator().manual_seed(0))
    del named["gate"]
    leaves = [x.requires_grad_() for x in named.values()]
    ours, _ = selective_scan(*leaves, form=form)
    theirs = block.selective_scan(*leaves)
    assert battery.relative(ours, theirs) < 1e-12
    grads = (torch.autograd.grad(y.sin().sum(), leaves) for y in (ours, theirs))
    for name, our_grad, their_grad in zip(named, *grads, strict=True):
        assert battery.relative(our_grad, their_grad) < 1e-11, name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", golden_selective_scan.CASES)
def test_the_official_references_numbers(case, form):
    kept = load_file(golden_selective_scan.TARGET)
    named = golden_selective_scan.inputs(case)
    leaves = {name: x.requires_grad_() for name, x in named.items()}
    y, final = selective_scan(**leaves, form=form)
    grads = torch.autograd.grad(golden_selective_scan.loss(y, final), list(leaves.values()))
    ours = {"y": y, "final": final}
    ours |= {f"gradient of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    for name, value in ours.items():
        assert battery.relative(value, kept[f"{case}.{name}"]) < 1e-5, name


@pytest.mark.slow
def test_a_million_steps_in_float32():
    """2^20 steps with horizons from 1 to 10^5 tokens: within 1e-4 of float64."""
    named = inputs(2**20, torch.Generator().manual_seed(0), batch=1, channels=2, d_state=3)
    named["A"] = -torch.tensor([[1e-5, 1e-4, 1e-3], [1e-2, 0.1, 1.0]]).double()
    y, final = selective_scan(**{name: x.float() for name, x in named.items()})
    # the same numbers, rounded to float32, in float64
    exact, _ = selective_scan(**{name: x.float().double() for name, x in named.items()})
    assert y.isfinite().all()
    assert final.isfinite().all()
    assert battery.relative(y.double(), exact) < 1e-4


def test_the_switch_gives_the_same():
    named = inputs(200, torch.Generator().manual_seed(0))
    y, final = selective_scan(**named)
    with reference():
        expected, expected_final = selective_scan(**named)
    assert torch.allclose(y, expected, rtol=1e-11, atol=1e-12)
    assert torch.allclose(final, expected_final, rtol=1e-11)


@pytest.mark.usefixtures("own_errors")
def test_bad_input_is_named():
    named = inputs(4, torch.Generator().manual_seed(0))
    x, state = named["x"], torch.zeros(2, CHANNELS, D_STATE)
    empty = {name: x[:, :0] if x.dim() == 3 else x for name, x in named.items()}
    with pytest.raises(ValueError, match="length must be at least 1"):
        selective_scan(**empty)
    for change, message in (
        ({"delta": x[:, :2]}, r"the same; got \(2, 4, 19\), \(2, 2, 19\), \(2, 4, 19\)"),
        ({"A": named["A"][:3]}, r"A must be \(channels, d_state\) = \(19, .\), got \(3, 5\)"),
        ({"B": named["B"][:1]}, r"B must be \(2, 4, 5\), got \(1, 4, 5\)"),
        ({"D": named["D"][:3]}, r"D must be \(19,\), got \(3,\)"),
        ({"state": state[:1]}, r"state must be \(2, 19, 5\), got \(1, 19, 5\)"),
        ({"form": "chunked"}, "got 'chunked'"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            selective_scan(**(named | change))
