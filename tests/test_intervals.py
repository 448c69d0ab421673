"""Confidence intervals hold what they promise."""

import numpy as np
import pandas as pd
import pytest

from ntlib import intervals


def test_student_covers_the_mean_of_three_values():
    draws = np.random.default_rng(0).normal(size=(2000, 3))
    inside = [low < 0 < high for low, high in map(intervals.of_mean, draws.tolist())]
    assert 0.93 < np.mean(inside) < 0.97
    assert intervals.of_mean([1.0]) == (float("-inf"), float("inf"))
    with pytest.raises(ValueError, match="values are empty"):
        intervals.of_mean([])


def test_student_covers_a_further_value():
    draws = np.random.default_rng(2).normal(size=(2000, 4))
    inside = [
        low < value < high
        for *known, value in draws.tolist()
        for low, high in [intervals.of_mean(known, more=1)]
    ]
    assert 0.93 < np.mean(inside) < 0.97
    with pytest.raises(ValueError, match="more must be at least 1, got 0"):
        intervals.of_mean([1.0, 2.0], more=0)


def test_wilson_covers_a_probability_and_knows_the_ends():
    counts = np.random.default_rng(1).binomial(50, 0.9, size=2000)
    bounds = [intervals.of_share(count / 50, 50) for count in counts]
    assert 0.93 < np.mean([low <= 0.9 <= high for low, high in bounds]) < 0.98
    low, high = intervals.of_share(1.0, 100)
    assert low == pytest.approx(1 / (1 + 1.959964**2 / 100))
    assert high == 1.0
    with pytest.raises(ValueError, match="share must be in"):
        intervals.of_share(1.1, 10)


def test_a_summary_has_a_row_per_group_in_order():
    frame = pd.DataFrame({"name": ["b", "b", "a"], "n": [1, 1, 2], "x": [0.0, 2.0, 5.0]})
    table = intervals.summarise(frame, ["name", "n"], "x")
    assert table[["name", "n", "mean", "seeds"]].values.tolist() == [["b", 1, 1, 2], ["a", 2, 5, 1]]
    assert table["low"][0] == pytest.approx(1 - 12.7062, rel=1e-4)
