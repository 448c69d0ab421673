"""The training loop and the grid: they learn, repeat themselves to the bit, and survive being
killed."""

import itertools
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch

from ntlib.experiments import Run, best_rates, execute, grid, run_grid
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.models.language_model import ModelConfig
from ntlib.tasks.batch import Batch
from ntlib.training import TrainConfig, make_optimizer, train


@dataclass(frozen=True)
class Successor:
    """Predict the token plus one: learned in a few steps."""

    vocab_size: int = 8

    def sample(self, batch_size, generator):
        inputs = torch.randint(self.vocab_size, (batch_size, 6), generator=generator)
        return Batch(inputs, (inputs + 1) % self.vocab_size)

    def held_out(self, count):
        return self.sample(count, torch.Generator().manual_seed(10**6))


@dataclass(frozen=True)
class Killed(Successor):
    """Successor whose process is killed when it asks for one batch too many."""

    def sample(self, batch_size, generator):
        if next(COUNTER) > 30:
            raise KeyboardInterrupt
        return super().sample(batch_size, generator)


COUNTER = itertools.count()
CONFIG = TrainConfig(steps=40, batch_size=8, lr=1e-2, eval_every=10, held_out=16)
RUN = Run("RetNet", ModelConfig(8, 16, 1, RetentionConfig(2), ffn_dim=24), Successor(), CONFIG)


def test_it_learns():
    rows = execute(RUN)
    assert rows["loss"].iloc[-1] < 0.1 * rows["train_loss"].iloc[0]
    assert rows["token_accuracy"].iloc[-1] > 0.9
    assert list(rows["step"]) == [10, 20, 30, 40]
    assert list(rows["tokens"]) == [480, 960, 1440, 1920]


def test_a_killed_run_continues_to_the_same_bits(tmp_path):
    checkpoint = tmp_path / "run.pt"
    undisturbed = train(RUN.build(), Successor(), CONFIG)
    with pytest.raises(KeyboardInterrupt):
        train(RUN.build(), Killed(), CONFIG, checkpoint=checkpoint)
    resumed_model = replace(RUN, train=replace(CONFIG, seed=0)).build()
    assert train(resumed_model, Successor(), CONFIG, checkpoint=checkpoint) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(RUN.build(), Successor(), CONFIG, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="belongs to another run: TrainConfig"):
        train(RUN.build(), Successor(), replace(CONFIG, lr=1e-3), checkpoint=tmp_path / "run.pt")


def test_workers_do_not_change_the_rows_and_done_runs_are_not_repeated(tmp_path):
    attention = replace(
        RUN, architecture="Transformer", model=replace(RUN.model, mixer=AttentionConfig(2))
    )
    runs = grid([RUN, attention], lrs=[1e-3, 1e-2], seeds=[0, 1])
    assert len(runs) == 8
    assert len({run.key() for run in runs}) == 8
    alone = run_grid(runs, workers=1)
    together = run_grid(runs, workers=2, checkpoints=tmp_path)
    pd.testing.assert_frame_equal(alone, together)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    pd.testing.assert_frame_equal(run_grid(runs, workers=1, checkpoints=tmp_path), together)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert best_rates(together) == {"RetNet": 1e-2, "Transformer": 1e-2}


def test_the_rate_warms_up_and_decays_to_its_floor():
    config = TrainConfig(steps=100, batch_size=1, lr=1.0, warmup=0.1, final_lr=0.1)
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=2e-3)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


def test_only_matrices_are_decayed():
    decayed, kept = make_optimizer(RUN.build(), CONFIG).param_groups
    assert decayed["weight_decay"] == 0.1
    assert all(p.dim() == 2 for p in decayed["params"])
    assert kept["weight_decay"] == 0
    assert all(p.dim() == 1 for p in kept["params"])


def test_a_matrix_that_is_no_weight_is_not_decayed():
    """Decay rates of many heads are kept as a matrix; drawing them to zero changes the memory."""
    model = torch.nn.Linear(3, 4)
    model.rates = torch.nn.Parameter(torch.ones(2, 3))
    decayed, kept = make_optimizer(model, CONFIG).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 3)]
    assert {p.shape for p in kept["params"]} == {(4,), (2, 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"lr": 0}, "lr must be positive"),
        ({"warmup": 2}, "warmup must be a share"),
    ],
    ids=str,
)
def test_bad_configurations_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
