"""Fitted exponents against known power laws."""

import numpy as np
import pytest

from ntlib.measuring import fit_exponent

X = np.array([256, 512, 1024, 2048, 4096, 8192])


def test_recovers_an_exact_power_law():
    fit = fit_exponent(X, 3e-6 * X**1.5)
    assert fit.exponent == pytest.approx(1.5, abs=1e-9)
    assert fit.prefactor == pytest.approx(3e-6, rel=1e-6)
    assert fit.low == pytest.approx(1.5, abs=1e-6)
    assert fit(256) == pytest.approx(3e-6 * 256**1.5)


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        fit = fit_exponent(X, X**2.0 * np.exp(0.1 * generator.standard_normal(len(X))))
        covered += fit.low <= 2 <= fit.high
    # 285 expected; five standard deviations are 19.
    assert covered > 266


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1, 2], "x has 2 points"),
        ([1, 2, 3], [1, 2], "equal length, got 3 and 2"),
        ([1, 2, 0], [1, 2, 3], "x must be finite and positive"),
        ([1, 2, 3], [1, -2, 3], "y must be finite and positive"),
        ([1, 2, 3], [1, float("nan"), 3], "y must be finite and positive"),
        ([2, 2, 2], [1, 2, 3], "one size only"),
        ([[1, 2, 3]], [1, 2, 3], "one-dimensional"),
    ],
)
def test_refuses(x, y, message):
    with pytest.raises(ValueError, match=message):
        fit_exponent(x, y)
