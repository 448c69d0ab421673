"""Diagonal plus low rank: the discrete system, and S4's kernel in both forms."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy import signal

from ntlib.ops import dplr, dplr_backward_kernel
from ntlib.ops.compiled import reference
from ntlib.ops.dplr import (
    as_real,
    c_from_c_tilde,
    c_tilde_from_c,
    discretise_dplr,
    double_c_tilde,
    dplr_dense,
    dplr_kernel,
    dplr_step,
)
from ntlib.ops.hippo import hippo, normal_plus_low_rank
from ntlib.ops.state_space import discretise
from tests.ops.battery import relative


@pytest.fixture(params=["compiled", "reference"])
def form(request):
    """The kernel, then the definition in torch."""
    with reference() if request.param == "reference" else nullcontext():
        yield request.param


def dplr_system(channels=3, states=16, measure="legs", seed=0, dtype=torch.complex128):
    """dt, poles, p, b, c of HiPPO systems with different steps."""
    generator = torch.Generator().manual_seed(seed)
    poles, p, b, _ = normal_plus_low_rank(measure, states)
    c = torch.randn(channels, states // 2, generator=generator, dtype=torch.complex128)
    dt = torch.logspace(-3, -1, channels, dtype=torch.float64)
    copies = [poles.expand(channels, -1), p[:, None].expand(-1, channels, -1)]
    copies += [b.expand(channels, -1), c]
    return dt.to(dtype.to_real()), *(x.to(dtype) for x in copies)


def kernel_by_powers(system, c, length):
    """K_l = c a^l b with the dense real matrix."""
    a, b = dplr_dense(system)
    row = 2 * torch.cat([c.real, -c.imag], dim=-1)
    values = []
    for _ in range(length):
        values.append((row * b).sum(-1))
        b = (a @ b[..., None])[..., 0]
    return torch.stack(values, dim=-1)


@pytest.mark.parametrize(("measure", "states"), [("legs", 2), ("legs", 64), ("legt", 16)])
def test_the_discrete_system_is_that_of_the_dense_matrix(measure, states):
    """The bilinear rule in the HiPPO basis, carried over by V, is the O(N) step."""
    dt, poles, p, b, _ = dplr_system(2, states, measure)
    A, B = hippo(measure, states)
    V = normal_plus_low_rank(measure, states)[3]
    system = discretise_dplr(dt, poles, p, b)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(5, 2, states // 2, generator=generator, dtype=torch.complex128)
    u = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    ours = dplr_step(system, u, h)
    a, b_bar = discretise(A.expand(2, -1, -1), B.expand(2, -1), dt, "bilinear")
    dense = 2 * (h @ V.T).real  # (batch, channels, states) in the HiPPO basis
    dense = torch.einsum("cmn,bcn->bcm", a, dense) + b_bar * u[..., None]
    assert relative(2 * (ours @ V.T).real, dense) < 1e-12
    matrix, vector = dplr_dense(system)
    real = torch.einsum("cmn,bcn->bcm", matrix, as_real(h)) + vector * u[..., None]
    assert relative(as_real(ours), real) < 1e-12


@pytest.mark.parametrize("length", [1, 2, 3, 16, 101, 4096, 5000])
@pytest.mark.parametrize(("measure", "states"), [("legs", 2), ("legs", 64), ("legt", 16)])
def test_the_dplr_kernel_is_the_powers(measure, states, length, form):
    if length > 200 and states != 64:
        pytest.skip("long kernels at one size")
    dt, poles, p, b, c = dplr_system(2, states, measure)
    system = discretise_dplr(dt, poles, p, b)
    kernel = dplr_kernel(dt, poles, p, b, c_tilde_from_c(system, c, length), length)
    assert relative(kernel, kernel_by_powers(system, c, length)) < 1e-10


def test_the_dplr_kernel_is_the_impulse_response_of_scipy(form):
    dt, poles, p, b, c = dplr_system(1, 16)
    A, B = hippo("legs", 16)
    V = normal_plus_low_rank("legs", 16)[3]
    row = 2 * (c[0] @ V.mH).real
    continuous = (A.numpy(), B.numpy()[:, None], row.numpy()[None], np.zeros((1, 1)))
    discrete = signal.cont2discrete(continuous, dt[0].item(), method="bilinear")
    a, b_bar = discrete[0], discrete[1]
    # SciPy's y_t reads the state before the input of t enters; ours the state after it
    system = (a, b_bar, row.numpy()[None] @ a, row.numpy()[None] @ b_bar, dt[0].item())
    _, (theirs,) = signal.dimpulse(system, n=64)
    ours = discretise_dplr(dt, poles, p, b)
    kernel = dplr_kernel(dt, poles, p, b, c_tilde_from_c(ours, c, 64), 64)
    assert np.allclose(kernel[0], theirs[:, 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("length", [256, 1024, 4096, 16384])
def test_the_dplr_kernel_in_float32(length, form):
    exact = dplr_system(2, 64)
    exact_c = c_tilde_from_c(discretise_dplr(*exact[:4]), exact[4], length)
    rounded = [x.to(_single(x)) for x in (*exact[:4], exact_c)]
    error = relative(dplr_kernel(*rounded, length), dplr_kernel(*exact[:4], exact_c, length))
    assert error < 1e-3, error


def _single(x):
    return torch.complex64 if x.is_complex() else torch.float32


def test_c_and_c_tilde():
    dt, poles, p, b, c = dplr_system(3, 16)
    system = discretise_dplr(dt, poles, p, b)
    tilde = c_tilde_from_c(system, c, 50)
    assert relative(c_from_c_tilde(system, tilde, 50), c) < 1e-10
    assert relative(double_c_tilde(system, tilde, 50), c_tilde_from_c(system, c, 100)) < 1e-12
    # the kernel for twice the length begins with the kernel
    long = dplr_kernel(dt, poles, p, b, c_tilde_from_c(system, c, 100), 100)
    assert relative(dplr_kernel(dt, poles, p, b, tilde, 50), long[:, :50]) < 1e-11


@pytest.mark.parametrize(("measure", "length"), [("legs", 1), ("legs", 6), ("legt", 7)])
def test_gradients_of_the_dplr_kernel(measure, length, form):
    dt, poles, p, b, c = dplr_system(2, 4, measure)
    given = [x.clone().requires_grad_() for x in (dt, poles, p, torch.stack([b, b * c]), c)]
    # poles of LegT lie on the imaginary axis, where finite differences leave the stable side
    given[1] = (poles - 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: dplr_kernel(*inputs, length), given)


def outcome(inputs, length):
    """Kernel, gradients of log dt (which layers learn; that of dt is as far from 0 as rounding
    over dt) and of everything else."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    kernel = dplr_kernel(*inputs, length)
    weights = torch.linspace(0.5, 1.5, kernel.numel(), dtype=torch.float64).view(kernel.shape)
    loss = ((3 * kernel.double()).sin() * weights).sum()
    d_dt, *rest = torch.autograd.grad(loss, inputs)
    return kernel.detach(), d_dt * inputs[0].detach(), *rest


@pytest.mark.parametrize("length", [1, 2, 3, 16, 101, 510, 512, 1025])
@pytest.mark.parametrize(("measure", "states"), [("legs", 2), ("legs", 64), ("legt", 10)])
def test_both_forms_agree(measure, states, length):
    """With several inputs, and with states that do not fill the last group; nodes in one block, in
    a block and one node, in several blocks."""
    dt, poles, p, b, c = dplr_system(3, states, measure)
    inputs = dt, poles, p, torch.stack([b, b * c, 1j * c]), c
    with reference():
        expected = outcome(inputs, length)
    for ours, theirs in zip(outcome(inputs, length), expected, strict=True):
        error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3)
        assert error < 1e-10


@pytest.mark.parametrize("length", [64, 1024, 4096])
def test_gradients_in_float32(length):
    """Against the definition in float64 at the same, rounded, parameters."""
    inputs = dplr_system(2, 64, dtype=torch.complex64)
    exact = [x.to(torch.promote_types(x.dtype, torch.float64)) for x in inputs]
    with reference():
        expected = outcome(exact, length)
    kernel, d_log_dt, *rest = outcome(inputs, length)
    assert relative(kernel, expected[0]) < 1e-5
    assert relative(d_log_dt, expected[1]) < 1e-3  # a difference of large sums
    for ours, theirs in zip(rest, expected[2:], strict=True):
        assert relative(ours, theirs) < 1e-5


def test_what_needs_no_gradient():
    """Gradients of one input alone, and the kernel without any."""
    inputs = dplr_system(2, 8)
    for i in range(5):
        alone = [x.clone().requires_grad_(j == i) for j, x in enumerate(inputs)]
        together = [x.clone().requires_grad_() for x in inputs]
        (ours,) = torch.autograd.grad(dplr_kernel(*alone, 20).sum(), alone[i])
        theirs = torch.autograd.grad(dplr_kernel(*together, 20).sum(), together)[i]
        assert relative(ours, theirs) < 1e-12
    with torch.no_grad():
        assert torch.equal(dplr_kernel(*together, 20), dplr_kernel(*inputs, 20))


def test_the_switch_forces_the_definition(monkeypatch):
    inputs = dplr_system(2, 8)
    ours = dplr_kernel(*inputs, 20)
    monkeypatch.setattr(dplr_backward_kernel, "forward", None)
    with reference():
        assert relative(ours, dplr_kernel(*inputs, 20)) < 1e-12
    with pytest.raises(TypeError):
        dplr_kernel(*inputs, 20)


def test_gradients_through_blocks_of_nodes(monkeypatch):
    """Long kernels take their nodes in blocks and compute the backward pass's needs again."""
    inputs = dplr_system(2, 8, "legt")
    with reference():
        whole = outcome(inputs, 40)
        monkeypatch.setattr(dplr, "NODES_AT_ONCE", 6)
        for ours, theirs in zip(outcome(inputs, 40), whole, strict=True):
            assert relative(ours, theirs) < 1e-12


def test_a_kernel_of_several_inputs(form):
    dt, poles, p, b, c = dplr_system(2, 8)
    several = torch.stack([b, 2j * b, b * c])
    together = dplr_kernel(dt, poles, p, several, c, 20)
    for i in range(3):
        assert relative(together[i], dplr_kernel(dt, poles, p, several[i], c, 20)) < 1e-12
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        dplr_kernel(dt, poles, p, b, c, 0)
