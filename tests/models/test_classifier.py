"""The classifier around any mixer: shapes, seeds, both norms, and training like any other model."""

import pytest
import torch

from ntlib.experiments import Run, execute
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.lstm import LSTMConfig
from ntlib.mixers.mega import MegaConfig
from ntlib.mixers.s4d import S4DConfig
from ntlib.models.classifier import Classifier, ClassifierConfig, Dropout
from ntlib.tasks import Digits, ListOps
from ntlib.training import TrainConfig, train

MIXERS = [
    AttentionConfig(2),
    LSTMConfig(),
    S4DConfig(d_state=8),
    S4DConfig(d_state=8, bidirectional=True),
    MegaConfig(4, 8, 4, position_bias="rotary"),
    MegaConfig(4, 8, 4, chunk_size=11, bidirectional=True),
]
TOKENS = ClassifierConfig(10, 5, 16, 2, AttentionConfig(2), ffn_dim=24)
NUMBERS = ClassifierConfig(10, None, 16, 2, S4DConfig(d_state=8), ffn_dim=0, channels=3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda mixer: type(mixer).__name__)
@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_sequences_become_one_row_of_logits(mixer, norm, pool):
    config = ClassifierConfig(7, None, 16, 1, mixer, ffn_dim=8, channels=3, norm=norm, pool=pool)
    model = config.build(seeded())
    x = torch.randn(4, 11, 3, generator=seeded())
    logits, states = model(x)
    assert logits.shape == (4, 1, 7)
    assert states is None
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    # in a test, sequences do not see each other, whatever the norm
    torch.testing.assert_close(model(x[:1])[0], model(x)[0][:1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [TOKENS, NUMBERS], ids=["tokens", "numbers"])
def test_a_seed_fixes_the_weights(config):
    one, same, other = (config.build(seeded(s)).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["encoder.weight"], other["encoder.weight"])
    assert all(value.isfinite().all() for value in one.values())


def test_the_two_pools_are_what_they_say():
    x = torch.randint(5, (3, 9), generator=seeded())
    mean, last = (
        Classifier(ClassifierConfig(10, 5, 8, 1, AttentionConfig(2), 0, pool=p)).eval()
        for p in ("mean", "last")
    )
    last.load_state_dict(mean.state_dict())
    every = mean.head(mean.norm(mean.blocks[0](mean.encoder(x))))
    torch.testing.assert_close(mean(x)[0][:, 0], every.mean(1))
    torch.testing.assert_close(last(x)[0][:, 0], every[:, -1])


def test_batch_norm_is_over_sequences_and_steps():
    config = ClassifierConfig(10, 5, 8, 1, AttentionConfig(2), 0, norm="batch")
    norm = config.build(seeded()).norm
    x = 3 * torch.randn(6, 20, 8, generator=seeded()) + 2
    y = norm(x)
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var((0, 1), correction=0), torch.ones(8), atol=1e-3, rtol=0)


def test_dropout_keeps_the_mean_and_its_place():
    drop = Dropout(0.25)
    drop.reset_parameters(seeded())
    x = torch.ones(200, 500)
    first = drop(x)
    assert first.unique().tolist() == pytest.approx([0, 4 / 3])
    assert first.mean() == pytest.approx(1, abs=0.01)
    kept = {name: value.clone() for name, value in drop.state_dict().items()}
    second = drop(x)
    assert not torch.equal(first, second)
    restored = Dropout(0.25)
    restored.load_state_dict(kept)
    torch.manual_seed(5)  # the process's own generator plays no part
    assert torch.equal(restored(x), second)
    assert torch.equal(drop.eval()(x), x)


def test_a_killed_run_with_dropout_and_batch_norm_continues_to_the_same_bits(tmp_path):
    config = ClassifierConfig(
        10, None, 8, 1, S4DConfig(d_state=4), ffn_dim=0, norm="batch", dropout=0.2
    )
    steps = TrainConfig(steps=6, batch_size=4, lr=1e-2, eval_every=2, held_out=20)
    whole = train(config.build(seeded()), Digits(), steps)
    task = Digits()
    calls = []

    class Stopping:
        held_out = staticmethod(task.held_out)

        @staticmethod
        def sample(count, generator):
            calls.append(count)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return task.sample(count, generator)

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(config.build(seeded()), Stopping(), steps, checkpoint=path)
    assert train(config.build(seeded()), task, steps, checkpoint=path) == whole


@pytest.mark.slow
def test_it_learns_digits():
    config = ClassifierConfig(10, None, 32, 2, S4DConfig(d_state=16), ffn_dim=0)
    steps = TrainConfig(steps=150, batch_size=32, lr=1e-2, eval_every=50, held_out=360)
    rows = execute(Run("S4D", config, Digits(), steps))
    assert rows["token_accuracy"].iloc[-1] > 0.5
    assert list(rows["sequence_accuracy"]) == list(rows["token_accuracy"])


def test_tokens_of_a_task_go_in():
    task = ListOps(16)
    config = ClassifierConfig(task.classes, task.vocab_size, 16, 1, AttentionConfig(2), ffn_dim=8)
    batch = task.held_out(3)
    assert config.build(seeded())(batch.inputs)[0].shape[:2] == batch.targets.shape


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClassifierConfig(2, 5, 8, 1, LSTMConfig(), 0, pool="max").build(), "'max'"),
        (lambda: ClassifierConfig(2, 5, 8, 1, LSTMConfig(), 0, norm="rms").build(), "'rms'"),
        (lambda: ClassifierConfig(2, 5, 8, 1, LSTMConfig(), 0, dropout=1).build(), "got 1"),
        (lambda: ClassifierConfig(2, 5, 8, 0, LSTMConfig(), 0).build(), "n_layers must be at"),
        (lambda: TOKENS.build()(torch.zeros(2, 3, 3)), r"\(batch, length\) tokens"),
        (lambda: NUMBERS.build()(torch.zeros(2, 3)), r"\(batch, length, 3\) numbers"),
        (lambda: NUMBERS.build()(torch.zeros(0, 3, 3)), "not empty"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
