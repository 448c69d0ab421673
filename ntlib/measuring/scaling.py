"""How a measured cost grows: the exponent of a power law, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ScalingFit:
    """``y = prefactor * x ** exponent``, with the exponent's 95 % confidence interval."""

    exponent: float
    low: float
    high: float
    prefactor: float

    def __call__(self, x: Sequence[float] | np.ndarray | float) -> np.ndarray:
        """The fitted value at ``x``, to draw the line."""
        return self.prefactor * np.asarray(x, dtype=float) ** self.exponent

    def __str__(self) -> str:
        return f"{self.exponent:.2f} [{self.low:.2f}, {self.high:.2f}]"


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> ScalingFit:
    """Least squares of log y on log x; the interval is Student's t with ``len(x) - 2`` degrees.

    x: sizes, positive, at least three points of at least two different sizes.
    y: the cost measured at each size, positive.
    """
    x, y = _positive(x, "x"), _positive(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x and y must have equal length, got {len(x)} and {len(y)}")
    if len(x) < 3:
        raise ValueError(f"x has {len(x)} points; an interval needs at least 3")
    if np.ptp(x) == 0:
        raise ValueError(f"x holds one size only ({x[0]:g}); an exponent needs at least two")
    # Imported here: scipy.stats takes most of a second, and most notebooks fit nothing.
    from scipy import stats

    fit = stats.linregress(np.log(x), np.log(y))
    margin = stats.t.ppf(0.975, len(x) - 2) * fit.stderr
    return ScalingFit(
        exponent=float(fit.slope),
        low=float(fit.slope - margin),
        high=float(fit.slope + margin),
        prefactor=float(np.exp(fit.intercept)),
    )


def _positive(values: Sequence[float], name: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    if not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"{name} must be finite and positive to take logarithms, got {array}")
    return array
