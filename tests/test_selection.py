"""What selection buys: equal parameters, one size per profile, and answers at a distance."""

from dataclasses import replace

import pytest
import torch

from ntlib import experiments, selection
from ntlib.models.language_model import count_parameters
from ntlib.profiles import load_profile
from ntlib.tasks import GapCopying, InductionHeads


@pytest.mark.parametrize(
    ("make", "table"),
    [
        (selection.copying_run, selection.COPYING),
        (selection.induction_run, selection.INDUCTION),
        (selection.ablation_run, selection.ABLATIONS),
    ],
)
def test_contenders_have_equal_parameters(make, table):
    counts = {name: count_parameters(make(name, 1e-3).build()) for name in table}
    assert max(counts.values()) / min(counts.values()) < 1.01, counts


def test_sizes_come_from_the_profile():
    for name in ("smoke", "book", "full"):
        profile = load_profile(name)
        copying = selection.copying_run("Mamba", 1e-3, name)
        assert (copying.task.copied, copying.task.context) == (
            profile.copied,
            profile.copying_context,
        )
        assert copying.train.steps == profile.copying_steps
        assert selection.induction_run("H3", 1e-3, name).task.length == profile.induction_length
        assert selection.ablation_run("no gate", 1e-3, name).task.length == profile.ablation_length
        assert selection.ablation_run("N = 4", 1e-3, name).model.mixer.d_state == 4


def test_unknown_names_are_listed():
    for make in (selection.copying_run, selection.induction_run, selection.ablation_run):
        with pytest.raises(ValueError, match="'GRU' is unknown; there are Mamba, "):
            make("GRU", 1e-3)


@pytest.mark.parametrize("architecture", selection.INDUCTION)
def test_reading_in_parts_changes_nothing(architecture):
    run = selection.induction_run(architecture, 1e-3, "smoke")
    model, task = run.build().double(), replace(run.task, vocab_size=5)
    whole = selection.accuracy_at(model, task, 40, 30)
    assert selection.accuracy_at(model, task, 40, 30, at_once=7) == whole
    assert selection.accuracy_at(model, task, 40, 30, at_once=80) == whole
    logits = model(task.held_out(1).inputs)[0]
    assert torch.isfinite(logits).all()


def test_far_gives_a_row_per_run_and_length(tmp_path):
    runs = [selection.induction_run(name, 4e-3, "smoke") for name in ("Mamba", "Transformer")]
    runs = experiments.grid(runs, seeds=(0, 1))
    experiments.run_grid(runs, workers=1, checkpoints=tmp_path)
    rows = selection.far(runs, (16, 64, 128), 128, tmp_path, attention_up_to=64)
    assert list(rows.columns) == list(selection.FAR_COLUMNS)
    assert rows.groupby("architecture").length.unique().map(list).to_dict() == {
        "Mamba": [16, 64, 128],
        "Transformer": [16, 64],
    }
    assert set(zip(rows.length, rows.sequences, strict=True)) == {(16, 8), (64, 2), (128, 1)}
    assert rows.accuracy.between(0, 1).all()


def test_far_runs_are_the_tuned_ones_and_mamba_at_other_rates_and_with_decay():
    runs = selection.far_runs(dict.fromkeys(selection.INDUCTION, 8e-3), steps=7)
    assert [run.architecture for run in runs[: len(selection.INDUCTION)]] == [*selection.INDUCTION]
    assert {run.train.steps for run in runs} == {7}
    mambas = [run for run in runs if run.architecture == "Mamba"]
    assert sorted(run.train.lr for run in mambas) == sorted(selection.FAR_RATES)
    decays = {run.architecture: run.train.weight_decay for run in runs}
    assert decays.pop(selection.DECAYED) == 0.1
    assert set(decays.values()) == {0.0}


def test_batches_of_several_lengths():
    task = InductionHeads(16, 64, shortest=16)
    generator = torch.Generator().manual_seed(0)
    batches = [task.sample(2, generator) for _ in range(40)]
    assert {tuple(batch.inputs.shape) for batch in batches} == {(8, 16), (4, 32), (2, 64)}
    assert task.held_out(3).inputs.shape == (3, 64)
    copying = GapCopying(14, 4, 32, shortest=16)
    batches = [copying.sample(3, generator) for _ in range(20)]
    assert {tuple(batch.inputs.shape) for batch in batches} == {(6, 20), (3, 36)}
    assert copying.held_out(2).inputs.shape == (2, 36)
    with pytest.raises(ValueError, match="shortest must be between copied = 4 and context = 32"):
        GapCopying(14, 4, 32, shortest=3)
    with pytest.raises(ValueError, match="shortest must be at least 3"):
        InductionHeads(16, 64, shortest=2)
    with pytest.raises(ValueError, match="length must be at least 65"):
        InductionHeads(16, 64, shortest=65)
