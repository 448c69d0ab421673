"""The long convolution: its forms against each other, the definition, SciPy, and at the edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from ntlib.ops.compiled import reference
from ntlib.ops.long_conv import FORMS, fft_conv, long_conv, step, two_sided
from ntlib.ops.state_space import vandermonde_kernel
from tests.ops import battery
from tests.ops.battery import Operator, relative


def system(channels, states, generator, is_complex, decay=0.3):
    draw = lambda: torch.randn(channels, states, generator=generator, dtype=torch.float64)  # noqa: E731
    log_a = -decay * draw().exp()
    if not is_complex:
        return {"log_a": log_a, "b": draw(), "c": draw()}
    pair = lambda: torch.complex(draw(), draw())  # noqa: E731
    return {"log_a": torch.complex(log_a, 2 * draw()), "b": pair(), "c": pair()}


def operator(channels, states, is_complex):
    def inputs(length, generator):
        x = torch.randn(2, length, channels, generator=generator, dtype=torch.float64)
        return {"x": x} | system(channels, states, generator, is_complex)

    def state(given, generator):
        shape = (2, channels, states)
        return (torch.randn(shape, generator=generator, dtype=given["b"].dtype),)

    def call(given, state, form):
        return long_conv(**given, state=state[0] if state else None, form=form, chunk_size=8)

    # parameters are few and need all their digits, as a layer keeps them
    return Operator(call, inputs, state, FORMS, {"x": 1}, keep_float32=frozenset(("log_a",)))


OPERATORS = {
    "complex, a block and a part of one": operator(19, 3, True),
    "complex, one channel": operator(1, 5, True),
    "real": operator(18, 4, False),
    "real, one state": operator(3, 1, False),
}


@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS.keys())
@pytest.mark.parametrize("check", battery.CHECKS, ids=lambda check: check.__name__)
def test_battery(check, op):
    check(op)


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_definition_in_numpy(form, is_complex):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 11, 3, generator=generator, dtype=torch.float64)
    given = system(3, 4, generator, is_complex)
    h = torch.randn(2, 3, 4, generator=generator, dtype=given["b"].dtype)
    out, final = long_conv(x, **given, state=h, form=form)
    a, b, c, h = given["log_a"].exp().numpy(), given["b"].numpy(), given["c"].numpy(), h.numpy()
    for t in range(11):
        h = a * h + b * x[:, t, :, None].numpy()
        assert np.allclose(out[:, t], (c * h).sum(-1).real, rtol=1e-11, atol=1e-12)
    assert np.allclose(final, h, rtol=1e-11, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 100),
    channels=st.integers(1, 34),
    states=st.integers(1, 5),
    is_complex=st.booleans(),
    decay=st.sampled_from([0.0, 1e-9, 1e-3, 0.5, 50.0]),
    chunk_size=st.integers(1, 80),
    cut=st.floats(0, 1),
)
def test_forms_agree(length, channels, states, is_complex, decay, chunk_size, cut):
    """Outputs, final states and gradients, whole and cut in two."""
    results = {}
    cut = int(cut * (length - 1))
    for form in FORMS:
        generator = torch.Generator().manual_seed(length)
        x = torch.randn(2, length, channels, generator=generator, dtype=torch.float64)
        given = system(channels, states, generator, is_complex, decay)
        leaves = [v.requires_grad_() for v in (x, *given.values())]
        state, outs = None, []
        for part in (x[:, :cut], x[:, cut:]) if cut else (x,):
            out, state = long_conv(part, **given, state=state, form=form, chunk_size=chunk_size)
            outs.append(out)
        out = torch.cat(outs, dim=1)
        loss = out.sin().sum() + (state.abs() ** 2).sum()
        results[form] = [out, state, *torch.autograd.grad(loss, leaves)]
    for form in FORMS[1:]:
        for ours, theirs in zip(results[form], results["recurrent"], strict=True):
            error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)
            assert error < 1e-9, form


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_decays(form, dtype):
    """log a from -50 per step to -1e-7, side by side, over a thousand steps."""
    log_a = torch.tensor([[-50.0, -5.0, -1e-3, -1e-7]] * 2, dtype=dtype)
    log_a = torch.complex(log_a, torch.tensor([[0.0] * 4, [0.0, 3.14, 2.0, 1e-6]], dtype=dtype))
    x = torch.randn(1, 1000, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x.requires_grad_(), log_a.requires_grad_()
    ones = torch.ones_like(log_a)
    out, final = long_conv(x, log_a, ones, ones, form=form)
    gradients = torch.autograd.grad(out.sin().sum() + final.real.sum(), [x, log_a])
    exact_x, exact_log = (
        v.detach().to(torch.promote_types(v.dtype, torch.float64)).requires_grad_()
        for v in (x, log_a)
    )
    ones = torch.ones_like(exact_log)
    exact, exact_final = long_conv(exact_x, exact_log, ones, ones, form="recurrent")
    expected = torch.autograd.grad(exact.sin().sum() + exact_final.real.sum(), [exact_x, exact_log])
    tolerance = 5e-4 if dtype == torch.float32 else 1e-10
    for ours, theirs in zip((out, final, *gradients), (exact, exact_final, *expected), strict=True):
        assert ours.isfinite().all()
        assert relative(ours, theirs) < tolerance


@pytest.mark.parametrize("angle", [0.0, 0.001])
def test_decays_near_one_keep_their_digits(angle):
    """a = 1 - 1e-6 as a float32 has 1 - a off by 5%: seen in the definition, not in the kernel."""
    log_a = torch.tensor([[-1e-6]])
    if angle:
        log_a = torch.complex(log_a, torch.tensor([[angle]]))
    one = torch.ones_like(log_a)
    x = torch.randn(1, 2**14, 1, generator=torch.Generator().manual_seed(0))
    wide = [v.to(torch.promote_types(v.dtype, torch.float64)) for v in (x, log_a, one, one)]
    exact = long_conv(*wide, form="parallel")[0]
    assert relative(long_conv(x, log_a, one, one, form="compiled")[0], exact) < 5e-6
    assert relative(long_conv(x, log_a, one, one, form="recurrent")[0], exact) > 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("form", ["compiled", "parallel", "chunkwise"])
def test_a_million_steps_in_float32(form, is_complex):
    length = 2**20
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, length, 2, generator=generator)
    # rounding turns the phase of a complex state by up to 3e-8 per step; it forgets in 1e4 steps
    log_a = -torch.logspace(-4 if is_complex else -6, -1, 4).expand(2, -1)
    weights = torch.randn(2, 4, generator=generator)
    if is_complex:
        log_a = torch.complex(log_a, torch.rand(2, 4, generator=generator))
        weights = torch.complex(weights, weights.flip(1))
    one = torch.ones_like(weights)
    with torch.no_grad():
        out, final = long_conv(x, log_a, one, weights, form=form, chunk_size=1024)
        wide = [v.to(torch.promote_types(v.dtype, torch.float64)) for v in (x, log_a, one, weights)]
        exact, exact_final = long_conv(*wide, form="compiled")
    assert out.isfinite().all()
    tolerance = 3e-4 if is_complex else 1e-4
    assert relative(out, exact) < tolerance
    assert relative(final, exact_final) < tolerance


@pytest.mark.parametrize("is_complex", [True, False])
def test_scipy_simulates_the_same_system(is_complex):
    generator = torch.Generator().manual_seed(3)
    given = system(1, 3, generator, is_complex)
    x = torch.randn(1, 50, 1, generator=generator, dtype=torch.float64)
    out, _ = long_conv(x, **given)
    a, b, c = given["log_a"].exp()[0], given["b"][0], given["c"][0]
    if is_complex:  # as a real system of twice the size
        matrix = torch.block_diag(
            *(torch.stack([v.real, -v.imag, v.imag, v.real]).view(2, 2) for v in a)
        )
        b, c = (
            torch.view_as_real(b).flatten(),
            torch.view_as_real(c.conj().resolve_conj()).flatten(),
        )
    else:
        matrix = torch.diag(a)
    matrix, b, c = matrix.numpy(), b.numpy()[:, None], c.numpy()[None]
    # SciPy's output reads the state before the input of t enters it; ours the state after
    _, theirs, _ = signal.dlsim((matrix, b, c @ matrix, c @ b, 1.0), x[0].numpy())
    assert np.allclose(out[0], theirs, rtol=1e-10, atol=1e-12)


def test_the_kernel_is_the_response_to_an_impulse():
    given = system(3, 4, torch.Generator().manual_seed(0), True)
    x = torch.zeros(1, 40, 3, dtype=torch.float64)
    x[:, 0] = 1
    kernel = vandermonde_kernel(given["log_a"], given["c"] * given["b"], 40)
    assert relative(long_conv(x, **given, form="recurrent")[0][0].T, kernel) < 1e-12


@pytest.mark.parametrize(("length", "lags"), [(1, 1), (5, 3), (5, 9), (64, 64), (101, 101)])
def test_the_convolution_by_fourier_transform(length, lags):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, length, 3, generator=generator, dtype=torch.float64)
    kernel = torch.randn(3, lags, generator=generator, dtype=torch.float64)
    out = fft_conv(x, kernel)
    for i in range(2):
        for channel in range(3):
            full = np.convolve(x[i, :, channel], kernel[channel])[:length]
            assert np.allclose(out[i, :, channel], full, rtol=1e-11, atol=1e-12)
    assert fft_conv(x.bfloat16(), kernel.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("first_lag", [0, 1])
@pytest.mark.parametrize("length", [1, 6])
def test_two_sides(first_lag, length):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, length, 1, generator=generator, dtype=torch.float64)
    left, right = torch.randn(2, 1, 8, generator=generator, dtype=torch.float64)
    out = two_sided(x, lambda v: fft_conv(v, left), lambda v: fft_conv(v, right), first_lag)
    for t in range(length):
        expected = sum(left[0, lag] * x[0, t - lag, 0] for lag in range(t + 1))
        future = range(t + first_lag, length)
        expected = expected + sum(right[0, s - t - first_lag] * x[0, s, 0] for s in future)
        assert torch.allclose(out[0, t, 0], expected)


def test_one_step():
    given = system(3, 4, torch.Generator().manual_seed(0), True)
    x = torch.randn(2, 2, 3, dtype=torch.float64)
    out, final = long_conv(x, **given)
    _, h = long_conv(x[:, :1], **given)
    y, h = step(x[:, 1], given["log_a"].exp(), given["b"], given["c"], h)
    assert relative(y, out[:, 1]) < 1e-12
    assert relative(h, final) < 1e-12


def test_the_switch_gives_the_same():
    generator = torch.Generator().manual_seed(0)
    given = system(5, 4, generator, True)
    x = torch.randn(2, 40, 5, generator=generator, dtype=torch.float64)
    fast = long_conv(x, **given)
    with reference():
        slow = long_conv(x, **given)
    for ours, theirs in zip(fast, slow, strict=True):
        assert relative(ours, theirs) < 1e-11


def test_a_nan_shows():
    given = system(2, 3, torch.Generator().manual_seed(0), True)
    x = torch.randn(1, 40, 2, dtype=torch.float64)
    x[0, 20, 0] = float("nan")
    out, _ = long_conv(x, **given, form="compiled")
    assert out[0, :20].isfinite().all()
    assert out[0, 20:, 0].isnan().all()
    assert out[0, :, 1].isfinite().all()


@pytest.mark.usefixtures("own_errors")
def test_errors_are_named():
    given = system(3, 2, torch.Generator().manual_seed(0), True)
    x = torch.zeros(2, 4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x must be \(batch, length, channels\)"):
        long_conv(x[0], **given)
    with pytest.raises(ValueError, match="as many rows as x has channels = 2, got 3"):
        long_conv(x[..., :2], **given)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        long_conv(x[:, :0], **given)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        long_conv(x, **given, chunk_size=0)
    with pytest.raises(
        ValueError, match=r"all real or all complex, got torch.complex128, torch.fl"
    ):
        long_conv(x, given["log_a"], given["b"].real, given["c"])
    with pytest.raises(ValueError, match=r"real parts <= 0 .* maximum of 0.5"):
        long_conv(x, torch.full_like(given["log_a"], 0.5), given["b"], given["c"])
    with pytest.raises(ValueError, match=r"state must be .* = \(2, 3, 2\), got \(1, 3, 2\)"):
        long_conv(x, **given, state=torch.zeros(1, 3, 2, dtype=torch.complex128))
    with pytest.raises(ValueError, match="form must be one of"):
        long_conv(x, **given, form="fast")
