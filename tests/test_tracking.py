"""State tracking: what is compared is the mixer alone, and every row says which run it is of."""

import pytest

from ntlib import experiments, tracking
from ntlib.models.language_model import LanguageModel
from ntlib.profiles import load_profile


def test_tracking_gives_a_row_per_run_and_length(tmp_path):
    run = tracking.run("LSTM", "S3, swaps", 1, 4e-3, "smoke")
    jobs = [("S3, swaps", run) for run in experiments.grid([run], lrs=(4e-3, 8e-3), seeds=(0, 1))]
    rows = tracking.track(jobs, (3, 6), tmp_path, workers=1)
    assert list(rows.columns) == list(tracking.COLUMNS)
    assert len(rows) == 8
    assert set(rows.lr) == {4e-3, 8e-3}
    assert rows.length.tolist() == [3, 6] * 4
    assert rows.token_accuracy.between(0, 1).all()
    assert (rows.layers == 1).all()


@pytest.mark.parametrize("name", tracking.MIXERS)
def test_only_the_mixer_differs(name):
    config = tracking.run(name, "parity", 2, 4e-3).model
    model = LanguageModel(config)
    assert config.n_layers == len(model.blocks) == 2
    assert config.d_model == tracking.D_MODEL
    assert config.ffn_dim == 2 * tracking.D_MODEL


def test_sequences_are_as_long_as_the_profile_says():
    for profile in ("smoke", "book", "full"):
        run = tracking.run("RetNet", "A5", 1, 4e-3, profile)
        assert run.task.length == load_profile(profile).tracking_length


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match="'GRU' is unknown; there are RWKV-7, "):
        tracking.run("GRU", "parity", 1, 4e-3)
    with pytest.raises(ValueError, match="'D4' is unknown; there are parity, "):
        tracking.run("LSTM", "D4", 1, 4e-3)
