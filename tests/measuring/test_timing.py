"""Side-by-side timing: order, samples and ratios; never a wall-clock time."""

import pandas as pd
import pytest

from ntlib.measuring import compare, ratio, timing


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


def clock(monkeypatch, loads):
    """Blocks take one second each on two cores; others use the given shares of them in turn."""
    now = {"busy": 0.0, "own": 0.0}
    shares = iter(loads)

    def block(run, wait, calls):
        run()
        now["own"] += 1.0
        now["busy"] += 1.0 + 2 * next(shares)
        return 1.0 / calls

    monkeypatch.setattr(timing, "_block", block)
    monkeypatch.setattr(timing, "_calls_per_block", lambda *arguments: 4)
    monkeypatch.setattr(timing.psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(timing, "_processor_seconds", lambda: (now["busy"], now["own"]))


def test_samples_that_others_disturbed_are_measured_again(monkeypatch):
    clock(monkeypatch, [0.0, 0.5, 0.2, 0.05, 0.09])
    frame = compare({"a": int}, repeats=3, min_block_seconds=0.1, max_foreign_load=0.1)
    assert frame[["repeats", "discarded", "disturbed"]].to_numpy().tolist() == [[3, 2, 0]]
    assert frame.attrs["samples"]["a"] == [0.25] * 3


def test_a_machine_that_is_never_quiet_is_told(monkeypatch):
    clock(monkeypatch, [0.9] * 100)
    frame = compare({"a": int, "b": int}, repeats=2, min_block_seconds=0.1, max_foreign_load=0.1)
    assert frame["discarded"].tolist() == [2 * timing.MAX_RETRIES] * 2
    assert frame["disturbed"].tolist() == [2, 2]


def test_own_work_is_not_foreign():
    busy, own = timing._processor_seconds()
    sum(i for i in range(10**6))
    later_busy, later_own = timing._processor_seconds()
    assert later_own > own
    assert later_busy >= busy > 0


@pytest.mark.parametrize(
    ("contenders", "options", "message"),
    [
        ({}, {}, "contenders is empty"),
        ({"a": int}, {"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"a": int}, {"warmup": -1}, "warmup must not be negative, got -1"),
        ({"a": int}, {"min_block_seconds": -1}, "min_block_seconds must not be negative"),
        ({"a": int}, {"max_foreign_load": 1.5}, "max_foreign_load must lie between 0 and 1"),
        ({"a": int}, {"max_foreign_load": 0.1}, "min_block_seconds must be at least 0.1, got 0.02"),
    ],
)
def test_refuses(contenders, options, message):
    with pytest.raises(ValueError, match=message):
        compare(contenders, **options)


def test_ratio_names_an_unknown_contender():
    frame = compare({"a": int}, repeats=1, min_block_seconds=0)
    with pytest.raises(ValueError, match=r"'z'; measured were \['a'\]"):
        ratio(frame, "a", "z")
