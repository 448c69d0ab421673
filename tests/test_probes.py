"""Probes on models whose answers are known."""

import pytest
import torch
from torch import nn

from ntlib import experiments, probes
from ntlib.mixers.attention import AttentionConfig
from ntlib.models import presets
from ntlib.models.language_model import LanguageModel, ModelConfig
from ntlib.tasks import Batch, Counting
from ntlib.training import TrainConfig, evaluate


class Knows(nn.Module):
    """Says the parity of the bits, right up to position `until` and opposite after it."""

    def __init__(self, until):
        super().__init__()
        self.until = until

    def forward(self, tokens):
        parity = tokens.cumsum(1) % 2
        parity[:, self.until :] = 1 - parity[:, self.until :]
        return 10.0 * torch.nn.functional.one_hot(parity, 2), None


class Echo(nn.Module):
    """Logits are the embedding of the token three steps back, times a half."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 5)

    def forward(self, tokens):
        return 0.5 * self.embedding(tokens).roll(3, dims=1), None


@pytest.fixture
def model():
    config = ModelConfig(7, 16, 2, AttentionConfig(2), ffn_dim=24)
    return LanguageModel(config, torch.Generator().manual_seed(0))


def test_losses_by_position_average_to_the_loss(model):
    tokens = torch.randint(7, (70, 12), generator=torch.Generator().manual_seed(1))
    batch = Batch(tokens[:, :-1], tokens[:, 1:])
    losses = probes.loss_by_position(model, batch)
    assert losses.shape == (11,)
    assert losses.mean().item() == pytest.approx(evaluate(model, batch)["loss"], rel=1e-6)


def test_scores_fall_where_the_model_stops_knowing():
    frame = probes.score_by_length(Knows(until=10), Counting(2, 4), (5, 10, 20), count=8)
    assert frame.length.tolist() == [5, 10, 20]
    assert frame.token_accuracy.tolist() == [1.0, 1.0, 0.5]
    assert frame.sequence_accuracy.tolist() == [1.0, 1.0, 0.0]


def test_difficulties_are_scored_one_by_one():
    frame = probes.score_by_difficulty(Knows(until=10), Counting(2, 4), (5, 20), count=70)
    assert frame.difficulty.tolist() == [5, 20]
    assert frame.token_accuracy.tolist() == [1.0, 0.5]
    assert frame.string_accuracy.tolist() == frame.sequence_accuracy.tolist() == [1.0, 0.0]


def test_reach_finds_the_only_token_that_counts():
    tokens = torch.randint(7, (2, 9), generator=torch.Generator().manual_seed(1))
    found = probes.reach(Echo(), tokens)
    assert found[3] > 0.1
    assert found.count_nonzero() == 1


def test_a_trained_run_can_be_had_again(tmp_path):
    task = Counting(2, 6)
    run = experiments.Run(
        "Transformer",
        presets.small("Transformer", task.vocab_size),
        task,
        TrainConfig(3, 4, 1e-3, eval_every=3),
    )
    rows = experiments.run_grid([run], workers=1, checkpoints=tmp_path)
    again = evaluate(experiments.trained(run, tmp_path), task.held_out(64))
    assert again["loss"] == pytest.approx(rows.loss.iloc[-1], rel=1e-6)
