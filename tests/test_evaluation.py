"""Contenders of equal size, states of the bytes that they hold, and what is read off the scores."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from ntlib import evaluation, experiments
from ntlib.mixer_costs import mixer_cost
from ntlib.models.language_model import count_parameters


@pytest.mark.parametrize(("name", "size"), evaluation.recall_contenders())
def test_contenders_have_equal_parameters(name, size):
    ours = count_parameters(evaluation.model_of(name, size, 32).build())
    theirs = count_parameters(evaluation.model_of("Transformer", None, 32).build())
    assert ours == pytest.approx(theirs, rel=0.006)


@pytest.mark.parametrize("name", evaluation.STATES)
def test_held_bytes_are_those_of_the_cost_model_and_follow_the_knob(name):
    sizes = evaluation.STATES[name][1]
    held = {}
    for size in sizes:
        config = evaluation.model_of(name, size, 32)
        held[size] = evaluation.held_bytes(config.build(), 127)
        expected = 2 * 4 * mixer_cost(config.mixer, config.d_model).state_numbers(127)
        assert held[size] == pytest.approx(expected, rel=0.25)  # RWKV-7's channel mix has a state
    assert max(held.values()) > 3 * min(held.values())


def test_attention_holds_more_with_every_token():
    model = evaluation.model_of("Transformer", None, 32).build()
    assert evaluation.held_bytes(model, 100) == 2 * 2 * 64 * 100 * 4


def test_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="architecture must be one of Local attention, "):
        evaluation.model_of("S4D", 8, 32)


def small_runs(make, names, tmp_path, **changes):
    runs = [make(name, 4e-3, "smoke", **changes) for name in names]
    train = {"batch_size": 2, "held_out": 2}
    runs = [replace(run, train=replace(run.train, **train)) for run in runs]
    experiments.run_grid(runs, workers=1, checkpoints=tmp_path)
    return runs


def test_recall_gives_a_row_per_run_and_test(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "RECALL_TESTS", ((4, 32), (4, 64)))
    runs = small_runs(evaluation.recall_run, ("Transformer", "Mamba"), tmp_path)
    frame = evaluation.recall(runs, [None, None], tmp_path)
    assert list(frame) == list(evaluation.RECALL_COLUMNS)
    assert len(frame) == 4
    growth = frame.groupby("architecture")["state_bytes"].agg(lambda b: b.max() / b.min())
    assert growth["Mamba"] == 1
    assert growth["Transformer"] == 63 / 31
    assert frame["token_accuracy"].between(0, 1).all()


def test_copying_is_tested_at_every_length(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "COPYING_TESTS", (3, 5))
    runs = small_runs(evaluation.copying_run, ("RetNet",), tmp_path)
    frame = evaluation.copying(runs, [None], tmp_path, count=4)
    assert list(frame) == list(evaluation.COPYING_COLUMNS)
    assert frame["length"].tolist() == [3, 5]


def test_lookups_differ_in_the_order_alone(tmp_path):
    runs = [
        small_runs(lambda *a, order=order: evaluation.lookup_run(order, *a), ("RetNet",), tmp_path)[
            0
        ]
        for order in evaluation.ORDERS
    ]
    frame = evaluation.lookup(runs, [None] * 3, tmp_path, count=8)
    assert frame["order"].tolist() == list(evaluation.ORDERS)
    assert list(frame) == list(evaluation.LOOKUP_COLUMNS)
    strings = [run.task.held_out(5).inputs for run in runs]
    assert torch.equal(strings[0][:, 2:18], strings[1][:, :16])


def test_knees_lie_between_the_sizes_around_them():
    assert evaluation.knee([1, 4, 16], [0.0, 0.4, 0.8], 0.6) == pytest.approx(8)
    assert evaluation.knee([16, 4, 1], [0.8, 0.4, 0.0], 0.4) == pytest.approx(4)
    assert evaluation.knee([2, 4], [0.9, 1.0], 0.5) == 2
    assert math.isnan(evaluation.knee([2, 4], [0.1, 0.2], 0.5))


def test_reach_ends_at_the_first_failure():
    frame = pd.DataFrame({"n": [16, 32, 64, 128], "share": [1.0, 0.95, 0.5, 0.99]})
    assert evaluation.reach(frame.n, frame.share, 0.9) == 32
    assert evaluation.reach(frame.n, frame.share, 0.4) == 128
    assert evaluation.reach([16], [0.1], 0.9) == 0
