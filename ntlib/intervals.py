"""How sure a mean over seeds, or a share of answers, is: 95 % confidence intervals."""

from collections.abc import Sequence
from math import sqrt

import pandas as pd
from scipy import stats

COVERED = 0.95


def of_mean(values: Sequence[float], more: int | None = None) -> tuple[float, float]:
    """Student's t interval of the mean of independent values, such as one per seed; with `more`,
    of the mean of so many further ones.

    With one value nothing is known of the scatter: (-inf, inf). Raises ValueError for none, or for
    more < 1.
    """
    count = len(values)
    if count == 0:
        raise ValueError("values are empty; give at least one")
    if more is not None and more < 1:
        raise ValueError(f"more must be at least 1, got {more}")
    if count == 1:
        return float("-inf"), float("inf")
    series = pd.Series(values, dtype=float)
    errors = 1 / count + (0 if more is None else 1 / more)  # variances, in that of one value
    half = stats.t.ppf((1 + COVERED) / 2, count - 1) * series.std() * sqrt(errors)
    return series.mean() - half, series.mean() + half


def of_share(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval of the probability behind a `share` of `count` independent answers.

    It knows nothing of the scatter between trainings; use it where one model is asked often. Raises
    ValueError for a share outside [0, 1] or count < 1.
    """
    if not 0 <= share <= 1 or count < 1:
        raise ValueError(
            f"share must be in [0, 1] and count at least 1, got share {share} and count {count}"
        )
    result = stats.binomtest(round(share * count), count)
    interval = result.proportion_ci(COVERED, method="wilson")
    return interval.low, interval.high


def summarise(frame: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean of `value` over seeds with `of_mean`: one row per group of `by`, in order of appearance;
    columns mean, low, high, seeds."""
    rows = {}
    for group, part in frame.groupby(list(by), sort=False):
        low, high = of_mean(part[value].tolist())
        rows[group] = (part[value].mean(), low, high, len(part))
    index = pd.MultiIndex.from_tuples(rows, names=list(by))
    table = pd.DataFrame(rows.values(), index=index, columns=["mean", "low", "high", "seeds"])
    return table.reset_index()
