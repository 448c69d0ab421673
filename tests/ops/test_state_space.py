"""State-space systems: discretisations against SciPy, kernels against powers of the matrix."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

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
