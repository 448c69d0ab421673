"""Side-by-side timing: order, samples and ratios; never a wall-clock time."""

import pandas as pd
import pytest

from ntlib.measuring import compare, ratio


def test_one_row_per_contender_and_one_sample_per_round():
    frame = compare({"a": lambda: 1, "b": lambda: 2}, repeats=5, min_block_seconds=0)
    assert list(frame["contender"]) == ["a", "b"]
    assert (frame["repeats"] == 5).all()
    assert {name: len(values) for name, values in frame.attrs["samples"].items()} == {
        "a": 5,
        "b": 5,
    }
    ordered = frame[["min_s", "q25_s", "median_s", "q75_s"]].to_numpy()
    assert (ordered[:, 1:] >= ordered[:, :-1]).all()
    assert (ordered > 0).all()


def test_order_rotates_between_rounds():
    calls = []
    contenders = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    compare(contenders, repeats=3, warmup=0, min_block_seconds=0)
    # Three calls came first, to find out how many calls a block needs.
    assert "".join(calls[3:]) == "abcbcacab"


def test_blocks_repeat_a_fast_function():
    calls = []
    compare({"fast": lambda: calls.append(1)}, repeats=1, min_block_seconds=0.005)
    assert len(calls) > 100


def test_garbage_collection_is_on_again_after_an_error():
    import gc

    def fails():
        raise RuntimeError("as intended")

    with pytest.raises(RuntimeError):
        compare({"fails": fails})
    assert gc.isenabled()


def test_ratio_is_the_median_over_rounds():
    frame = pd.DataFrame()
    # A drift that doubles all times cancels within a round.
    frame.attrs["samples"] = {"slow": [2.0, 4.0, 8.0], "fast": [1.0, 2.0, 4.0]}
    measured = ratio(frame, "slow", "fast")
    assert (measured.median, measured.q25, measured.q75) == (2.0, 2.0, 2.0)
    assert str(measured) == "2.00x [2.00, 2.00]"


@pytest.mark.parametrize(
    ("contenders", "options", "message"),
    [
        ({}, {}, "contenders is empty"),
        ({"a": int}, {"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"a": int}, {"warmup": -1}, "warmup must not be negative, got -1"),
        ({"a": int}, {"min_block_seconds": -1}, "min_block_seconds must not be negative"),
    ],
)
def test_refuses(contenders, options, message):
    with pytest.raises(ValueError, match=message):
        compare(contenders, **options)


def test_ratio_names_an_unknown_contender():
    frame = compare({"a": int}, repeats=1, min_block_seconds=0)
    with pytest.raises(ValueError, match=r"'z'; measured were \['a'\]"):
        ratio(frame, "a", "z")
