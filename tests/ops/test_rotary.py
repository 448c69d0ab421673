"""Rotary encoding: relative by construction, exact far out, and a pure rotation."""

import cmath
import math

import pytest
import torch

from ntlib.ops.rotary import rotary_frequencies, rotary_turns, rotate


def turns(position, length, dim, endpoint=False):
    return rotary_turns(rotary_frequencies(dim, endpoint=endpoint), position, length)


@pytest.mark.parametrize("endpoint", [False, True])
def test_products_depend_on_distance_only(endpoint):
    q, k = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def product(m, n):
        turned = (rotate(x, turns(p, 1, 8, endpoint)) for x, p in ((q, m), (k, n)))
        return (next(turned) * next(turned)).sum()

    assert torch.allclose(product(5, 2), product(105, 102), atol=1e-12)
    assert not torch.allclose(product(5, 2), product(5, 3), atol=1e-3)


def test_positions_far_out_keep_their_digits():
    far = turns(10_000_000, 1, 4)[0]
    exact = [cmath.exp(1j * math.fmod(10_000_000 * theta, 2 * math.pi)) for theta in (1.0, 1e-2)]
    assert torch.allclose(far, torch.tensor(exact, dtype=torch.complex128), atol=1e-8)


def test_length_is_kept_and_bfloat16_works():
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, turns(3, 5, 6))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1))
    assert rotate(x.bfloat16(), turns(3, 5, 6)).dtype == torch.bfloat16


@pytest.mark.usefixtures("own_errors")
def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"dim must be even.*got 5"):
        rotary_frequencies(5)
    with pytest.raises(ValueError, match="position must be >= 0, got -1"):
        turns(-1, 3, 4)
