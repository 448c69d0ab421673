"""State-space systems: discretisations against SciPy, kernels against powers of the matrix."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

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
from ntlib.ops.hippo import diagonal_poles, hippo, low_rank_part, normal_plus_low_rank
from ntlib.ops.state_space import (
    discretise,
    discretise_diagonal,
    ema_kernel,
    powers,
    vandermonde_kernel,
)

SIZES = (2, 8, 64)


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


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


# HiPPO


@pytest.mark.parametrize("states", SIZES)
def test_legs_has_the_integers_as_eigenvalues(states):
    A, B = hippo("legs", states)
    assert torch.equal(A, A.tril())
    assert torch.equal(A.diagonal(), -torch.arange(1.0, states + 1, dtype=torch.float64))
    assert torch.allclose(A[1:, 0], -torch.sqrt(2 * torch.arange(1.0, states).double() + 1))
    assert torch.allclose(B**2, 2 * torch.arange(states).double() + 1)


def test_legt_remembers_a_window():
    """The system's state is what the last two units of time project to on Legendre polynomials: a
    constant input leaves the constant polynomial alone."""
    A, B = hippo("legt", 8)
    steady = torch.linalg.solve(A, -B)
    assert abs(steady[0].item()) == pytest.approx(1)
    assert steady[1:].abs().max() < 1e-12


@pytest.mark.parametrize("measure", ["legs", "legt"])
@pytest.mark.parametrize("states", SIZES)
def test_normal_plus_low_rank_is_the_same_matrix(measure, states):
    A, B = hippo(measure, states)
    poles, p, b, V = normal_plus_low_rank(measure, states)
    both = torch.cat([V, V.conj()], dim=1)
    assert (both.mH @ both - torch.eye(states)).abs().max() < 1e-12
    P = torch.cat([p, p.conj()], dim=1).T
    middle = torch.diag(torch.cat([poles, poles.conj()])) - P @ P.mH
    assert (both @ middle @ both.mH - A).abs().max() < 1e-10
    assert (both @ torch.cat([b, b.conj()]) - B).abs().max() < 1e-11
    assert (poles.imag > 0).all()
    assert b.imag.abs().max() < 1e-12
    assert (b.real >= 0).all()
    rest = A + low_rank_part(measure, states).T @ low_rank_part(measure, states)
    assert torch.allclose(rest + rest.T, 2 * rest[0, 0] * torch.eye(states).double(), atol=1e-10)


def test_the_poles_of_64_states():
    poles = normal_plus_low_rank("legs", 64)[0]
    assert torch.allclose(poles.real, torch.full((32,), -0.5, dtype=torch.float64))
    assert poles.imag.min().item() == pytest.approx(0.264, abs=1e-3)
    assert poles.imag.max().item() == pytest.approx(1303.3, abs=0.1)
    assert diagonal_poles("inv", 64).imag.max().item() == pytest.approx(1283.4, abs=0.1)


def test_diagonal_initialisations():
    assert torch.equal(diagonal_poles("lin", 8).imag, math.pi * torch.arange(4).double())
    assert torch.equal(diagonal_poles("real", 8).real, -torch.arange(1.0, 5).double())
    assert torch.equal(diagonal_poles("legs", 8), normal_plus_low_rank("legs", 8)[0])


def test_errors_of_hippo():
    with pytest.raises(ValueError, match="measure must be 'legs' or 'legt', got 'x'"):
        hippo("x", 4)
    with pytest.raises(ValueError, match="init must be"):
        diagonal_poles("x", 4)
    with pytest.raises(ValueError, match="states must be even and at least 2, got 3"):
        normal_plus_low_rank("legs", 3)


# Discretisation


@pytest.mark.parametrize("method", ["zoh", "bilinear", "euler", "backward_euler"])
@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_dense_discretisation_is_scipys(method, measure):
    A, B = hippo(measure, 16)
    dt = torch.tensor([0.01, 0.1], dtype=torch.float64)
    a, b = discretise(A.expand(2, -1, -1), B.expand(2, -1), dt, method)
    for i in range(2):
        system = (A.numpy(), B.numpy()[:, None], np.ones((1, 16)), np.zeros((1, 1)))
        theirs = signal.cont2discrete(
            system, dt[i].item(), method={"backward_euler": "backward_diff"}.get(method, method)
        )
        assert np.allclose(a[i], theirs[0], rtol=1e-11, atol=1e-12)
        assert np.allclose(b[i], theirs[1][:, 0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_diagonal_discretisation_is_the_dense_one(method):
    poles = diagonal_poles("inv", 16)
    dt = torch.tensor([0.001, 0.1], dtype=torch.float64)
    log_a, factor = discretise_diagonal(poles.expand(2, -1), dt, method)
    blocks = torch.stack([torch.stack([p.real, -p.imag, p.imag, p.real]) for p in poles])
    for i in range(2):
        for n in range(8):
            dense, b = discretise(
                blocks[n].view(2, 2), torch.tensor([1.0, 0.0]).double(), dt[i], method
            )
            a = log_a[i, n].exp()
            assert torch.allclose(dense[:, 0], torch.stack([a.real, a.imag]), rtol=1e-12)
            assert torch.allclose(b, torch.view_as_real(factor[i, n]), rtol=1e-11, atol=1e-15)


def test_zero_order_hold_where_it_cancels():
    """(e^z - 1) / A for tiny z, at a pole of 0, and its gradient there."""
    A = torch.tensor([[0.0, -1e-9, -1e-3, -0.5]], dtype=torch.float64, requires_grad=True)
    dt = torch.tensor([0.1], dtype=torch.float64)
    log_a, factor = discretise_diagonal(A, dt)
    exact = [0.1] + [math.expm1(0.1 * a) / a for a in (-1e-9, -1e-3, -0.5)]
    assert np.allclose(factor.detach()[0], exact, rtol=1e-14)
    (gradient,) = torch.autograd.grad(factor.sum(), A)
    assert gradient[0, 0].item() == pytest.approx(0.1**2 / 2)
    assert torch.equal(log_a, 0.1 * A)
    float32 = discretise_diagonal(A.detach().to(torch.complex64), dt.float())[1]
    assert np.allclose(float32[0].real, exact, rtol=3e-7)


def test_errors_of_discretisation():
    A, B = hippo("legs", 4)
    with pytest.raises(ValueError, match="method must be 'zoh' or one of"):
        discretise(A, B, 0.1, "x")
    with pytest.raises(ValueError, match="method must be 'zoh' or 'bilinear', got 'x'"):
        discretise_diagonal(A, torch.ones(4).double(), "x")


# Kernels


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 90),
    states=st.integers(1, 5),
    is_complex=st.booleans(),
    decay=st.sampled_from([-1e-6, -0.3, -50.0]),
)
def test_the_vandermonde_kernel_is_the_sum_of_powers(length, states, is_complex, decay):
    generator = torch.Generator().manual_seed(length)
    draw = lambda: torch.randn(2, states, generator=generator, dtype=torch.float64)  # noqa: E731
    log_a, weights = decay * torch.rand(2, states, generator=generator).double(), draw()
    if is_complex:
        log_a, weights = torch.complex(log_a, draw()), torch.complex(weights, draw())
    lags = torch.arange(length)
    naive = (weights[..., None] * (log_a[..., None] * lags).exp()).sum(1).real
    assert torch.allclose(vandermonde_kernel(log_a, weights, length), naive, atol=1e-12)


def test_angles_are_exact_in_float32():
    """|a| = 1, 16384 steps: only the rounding of log a itself may show."""
    log_a = torch.tensor([[2.5j]], dtype=torch.complex64)
    kernel = vandermonde_kernel(log_a, torch.ones_like(log_a), 16384)
    exact = torch.cos(torch.arange(16384).double() * log_a.imag.double())
    assert (kernel - exact).abs().max() < 1e-6
    assert relative(powers(log_a, 5, 3), (3 * torch.arange(5) * log_a).exp()) < 1e-6


def test_the_kernel_of_mega():
    generator = torch.Generator().manual_seed(0)
    p, delta = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    beta, eta = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    q = 1 - p * delta
    direct = [(eta * p * beta * q**lag).sum(-1) for lag in range(20)]
    assert torch.allclose(ema_kernel(p, q, beta, eta, 20), torch.stack(direct, -1), rtol=1e-12)


# Diagonal plus low rank


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
def test_the_dplr_kernel_is_the_powers(measure, states, length):
    if length > 200 and states != 64:
        pytest.skip("long kernels at one size")
    dt, poles, p, b, c = dplr_system(2, states, measure)
    system = discretise_dplr(dt, poles, p, b)
    kernel = dplr_kernel(dt, poles, p, b, c_tilde_from_c(system, c, length), length)
    assert relative(kernel, kernel_by_powers(system, c, length)) < 1e-10


def test_the_dplr_kernel_is_the_impulse_response_of_scipy():
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
def test_the_dplr_kernel_in_float32(length):
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


def test_gradients_of_the_dplr_kernel():
    inputs = [x.clone().requires_grad_() for x in dplr_system(2, 4)]
    assert torch.autograd.gradcheck(
        lambda dt, poles, p, b, c: dplr_kernel(dt, poles, p, b, c, 7), inputs
    )


def test_gradients_through_blocks_of_nodes(monkeypatch):
    """Long kernels take their nodes in blocks and compute the backward pass's needs again."""
    from ntlib.ops import dplr

    def gradients():
        inputs = [x.clone().requires_grad_() for x in dplr_system(2, 8, "legt")]
        kernel = dplr_kernel(*inputs, 40)
        return kernel.detach(), *torch.autograd.grad(kernel.sin().sum(), inputs)

    whole = gradients()
    monkeypatch.setattr(dplr, "NODES_AT_ONCE", 6)
    for ours, theirs in zip(gradients(), whole, strict=True):
        assert relative(ours, theirs) < 1e-12


def test_a_kernel_of_several_inputs():
    dt, poles, p, b, c = dplr_system(2, 8)
    several = torch.stack([b, 2j * b, b * c])
    together = dplr_kernel(dt, poles, p, several, c, 20)
    for i in range(3):
        assert relative(together[i], dplr_kernel(dt, poles, p, several[i], c, 20)) < 1e-12
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        dplr_kernel(dt, poles, p, b, c, 0)
