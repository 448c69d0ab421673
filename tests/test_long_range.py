"""Long sequences: equal parameters, one size per profile, and what resampling does to a model."""

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from ntlib import experiments, long_range, records
from ntlib.models.language_model import count_parameters
from ntlib.profiles import load_profile
from ntlib.tasks import Digits, ListOps


@pytest.mark.parametrize("task", [Digits(), ListOps(32)], ids=["numbers", "tokens"])
def test_all_have_equal_parameters(task):
    counts = {
        name: count_parameters(long_range.classifier_run(name, 1e-3, task, 1).build())
        for name in long_range.MODELS
    }
    assert max(counts.values()) / min(counts.values()) < 1.02, counts


def test_copying_models_have_equal_parameters():
    counts = [
        count_parameters(long_range.gap_run(name, 1e-3).build()) for name in long_range.MODELS
    ]
    assert max(counts) / min(counts) < 1.02


def test_sizes_come_from_the_profile():
    for name in ("smoke", "book", "full"):
        profile = load_profile(name)
        steps = {
            long_range.digits_run: profile.digits_steps,
            long_range.list_run: profile.list_steps,
            long_range.pathfinder_run: profile.pathfinder_steps,
            long_range.tones_run: profile.tones_steps,
            long_range.gap_run: profile.gap_steps,
        }
        for make, expected in steps.items():
            assert make("S4D", 1e-3, name).train.steps == expected


def test_s4_is_made_for_the_task_s_length():
    assert long_range.list_run("S4", 1e-3, length=48).model.mixer.l_max == 48


def test_resampling_tests_every_state_space_three_times(tmp_path):
    runs = [long_range.tones_run(name, 4e-3, "smoke") for name in ("S4", "S5", "LSTM")]
    runs = experiments.grid(runs, seeds=(0, 1))
    rows = long_range.resampled(runs, tmp_path, count=20)
    assert list(rows.columns) == list(long_range.RATE_COLUMNS)
    assert rows.groupby("architecture").size().to_dict() == {"S4": 6, "S5": 6, "LSTM": 4}
    assert rows.accuracy.between(0, 1).all()


def test_a_tuned_record_takes_its_rates_from_another(tmp_path, monkeypatch):
    frame = experiments.run_grid(
        experiments.grid([long_range.digits_run("S5", 1e-3, "smoke")], lrs=(2e-3, 4e-3)), workers=1
    )
    best = frame[frame.step == frame.step.max()].set_index("lr").loss.idxmin()
    monkeypatch.setattr(records.results, "load", lambda name: (frame, {}))
    monkeypatch.setattr(records.experiments, "run_grid", keep_rates)
    makes = {
        name: partial(long_range.classifier_run, task=Digits(permuted=p), steps=2)
        for name, p in (("plain", False), ("permuted", True))
    }
    record = records._tuned(makes, ("S5",), "any")
    rows = record.measure(tmp_path, 1)
    assert set(rows.lr) == {best} == {run.train.lr for run in record.runs()}
    assert len(rows) == len(record.runs())
    assert rows.task.tolist() == ["plain"] * 3 + ["permuted"] * 3
    assert set(rows.length) == {64}


def keep_rates(runs, **_):
    return pd.DataFrame({"lr": [run.train.lr for run in runs]})


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match="'GRU' is unknown; there are S4, S4D"):
        long_range.digits_run("GRU", 1e-3)


def test_a_run_is_named_by_its_task():
    run = long_range.digits_run("S4D", 1e-3)
    assert run.key() != replace(run, task=Digits(permuted=True)).key()
