"""Token shift and its mixtures: the kernel against torch."""

import pytest
import torch

from ntlib.mixers.token_shift import shift_mix, token_shift
from ntlib.mixers.token_shift_kernel import STRETCH
from ntlib.ops.compiled import reference


def prepared(length, own, n=3, width=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(length)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()  # noqa: E731
    weights = draw(n, 2, length, width) if own else draw(n, 1, 1, width)
    return draw(2, length, width), draw(2, width), weights


def test_a_sequence_is_shifted():
    x, last, _ = prepared(4, own=False)
    previous, after = token_shift(x, last)
    assert torch.equal(previous[:, 0], last)
    assert torch.equal(previous[:, 1:], x[:, :-1])
    assert torch.equal(after, x[:, -1])
    assert not token_shift(x)[0][:, 0].any()


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("length", [1, 2, STRETCH, STRETCH + 1, 3 * STRETCH - 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mixtures_and_gradients_are_those_of_torch(length, own, dtype):
    inputs = prepared(length, own, dtype=dtype)

    def outcome():
        outs = shift_mix(*inputs)
        loss = sum((out * (n + 1)).sin().sum() for n, out in enumerate(outs))
        return *outs, *torch.autograd.grad(loss, inputs)

    ours = outcome()
    with reference():
        expected = outcome()
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= (1e-12 if dtype == torch.float64 else 1e-5) * b.abs().max()


@pytest.mark.parametrize("own", [False, True])
def test_gradients_match_finite_differences(own):
    assert torch.autograd.gradcheck(shift_mix, prepared(3, own))


def test_one_mixture_unused_and_no_token_before():
    x, _, weights = prepared(70, own=False)
    first, _, _ = shift_mix(x, None, weights)
    (ours,) = torch.autograd.grad(first.sin().sum(), x)
    with reference():
        (expected,) = torch.autograd.grad(shift_mix(x, None, weights)[0].sin().sum(), x)
    assert (ours - expected).abs().max() < 1e-12


def test_low_precision_goes_through_torch():
    x, last, weights = prepared(5, own=False, dtype=torch.bfloat16)
    assert all(out.dtype == torch.bfloat16 for out in shift_mix(x, last, weights))
