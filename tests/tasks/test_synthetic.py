"""Invariants of the synthetic tasks over random settings, seeds and batch sizes."""

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlib.tasks import IGNORED, AssociativeRecall, Batch, Copying, InductionHeads, synthetic
from ntlib.tasks.batch import accuracy
from tests.tasks.sequences import check_seeded_and_well_formed, draw

TASKS = [
    Copying(max_length=7),
    AssociativeRecall(vocab_size=64, length=32, pairs=4),
    InductionHeads(length=20),
]
seeds = st.integers(0, 2**31)
batch_sizes = st.integers(1, 9)


def test_drawn_examples_are_real():
    assert doctest.testmod(synthetic).failed == 0
    assert doctest.testmod(synthetic).attempted >= 9


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_batches_are_seeded_and_well_formed(task):
    check_seeded_and_well_formed(task)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_sampling_leaves_the_global_generator_alone(task):
    before = torch.get_rng_state()
    draw(task, 3, 0)
    assert torch.equal(before, torch.get_rng_state())


@given(
    symbols=st.integers(2, 30),
    low=st.integers(1, 6),
    more=st.integers(0, 6),
    batch_size=batch_sizes,
    seed=seeds,
)
@settings(max_examples=60, deadline=None)
def test_copying_repeats_the_string(symbols, low, more, batch_size, seed):
    task = Copying(symbols=symbols, min_length=low, max_length=low + more)
    for inputs, targets in zip(*draw(task, batch_size, seed), strict=True):
        row = inputs.tolist()
        n = row.index(task.SEPARATOR)
        string = row[:n]
        assert low <= n <= low + more
        assert min(string) >= 2
        assert row == string + [task.SEPARATOR] + string + [task.PAD] * (task.length - 2 * n - 1)
        answer = [*string, task.SEPARATOR]
        assert targets.tolist() == [IGNORED] * n + answer + [IGNORED] * (task.length - 2 * n - 1)


@given(
    pairs=st.integers(1, 8),
    slack=st.integers(0, 20),
    spare=st.integers(0, 30),
    filler=st.booleans(),
    batch_size=batch_sizes,
    seed=seeds,
)
@settings(max_examples=60, deadline=None)
def test_recall_asks_each_key_once(pairs, slack, spare, filler, batch_size, seed):
    task = AssociativeRecall(2 * pairs + 2 + spare, 4 * pairs + slack, pairs, random_filler=filler)
    half = task.vocab_size // 2
    for inputs, targets in zip(*draw(task, batch_size, seed), strict=True):
        keys, values = inputs[: 2 * pairs : 2], inputs[1 : 2 * pairs : 2]
        assert len(set(keys.tolist())) == len(set(values.tolist())) == pairs
        assert 1 <= keys.min() <= keys.max() < half <= values.min()
        known = dict(zip(keys.tolist(), values.tolist(), strict=True))
        asked = (targets != IGNORED).nonzero().flatten().tolist()
        assert min(asked) >= 2 * pairs
        assert sorted(inputs[asked].tolist()) == sorted(known)
        assert [known[key] for key in inputs[asked].tolist()] == targets[asked].tolist()
        later = inputs[2 * pairs :]
        assert ((later >= 1) & (later < half)).sum() == pairs
        if filler:
            assert (inputs != task.BLANK).all()


@given(vocab_size=st.integers(3, 20), length=st.integers(3, 40), batch_size=batch_sizes, seed=seeds)
@settings(max_examples=60, deadline=None)
def test_induction_asks_for_the_follower(vocab_size, length, batch_size, seed):
    task = InductionHeads(vocab_size=vocab_size, length=length)
    for inputs, targets in zip(*draw(task, batch_size, seed), strict=True):
        places = (inputs == vocab_size - 1).nonzero().flatten().tolist()
        assert len(places) == 2
        assert places[1] == length - 1
        assert targets.tolist() == [IGNORED] * (length - 1) + [inputs[places[0] + 1].item()]
        assert targets[-1] != vocab_size - 1


def test_queries_follow_the_power_law():
    task = AssociativeRecall(vocab_size=64, length=66, pairs=1, power_a=0.01, random_filler=False)
    targets = draw(task, 20_000, 0).targets
    share = (targets != IGNORED).double().mean(dim=0)[2::2]
    weights = torch.arange(1, 33, dtype=torch.float64) ** -0.99
    torch.testing.assert_close(share, weights / weights.sum(), atol=0.015, rtol=0)


def test_every_symbol_place_and_length_occurs():
    task = Copying(symbols=3, max_length=4)
    inputs, targets = draw(task, 2000, 0)
    assert set(inputs.flatten().tolist()) == {0, 1, 2, 3, 4}
    assert set((targets != IGNORED).sum(dim=1).tolist()) == {2, 3, 4, 5}


def test_score_counts_tokens_and_whole_sequences():
    targets = torch.tensor([[IGNORED, 1, 2], [IGNORED, 1, 1], [IGNORED, IGNORED, IGNORED]])
    answers = torch.tensor([[0, 1, 2], [0, 1, 0], [0, 0, 0]])
    logits = torch.nn.functional.one_hot(answers, 4).float()
    batch = Batch(torch.zeros_like(targets), targets)
    expected = {"token_accuracy": 0.75, "sequence_accuracy": 0.5}
    assert accuracy(logits, batch) == expected
    assert Copying().score(logits, batch) == expected


def test_perfect_answers_score_one_and_blind_ones_score_chance():
    batch = draw(InductionHeads(vocab_size=16, length=8), 4000, 0)
    perfect = torch.nn.functional.one_hot(batch.targets.clamp(min=0), 16)
    assert accuracy(perfect, batch)["sequence_accuracy"] == 1
    blind = torch.nn.functional.one_hot(torch.zeros_like(batch.targets), 16)
    assert accuracy(blind, batch)["token_accuracy"] == pytest.approx(1 / 15, abs=0.02)


def test_score_refuses_other_shapes():
    batch = draw(InductionHeads(length=8), 2, 0)
    with pytest.raises(ValueError, match=r"\(batch, length\) = \(2, 8\), got \(2, 7, 16\)"):
        accuracy(torch.zeros(2, 7, 16), batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Copying(symbols=1), "symbols must be at least 2, got 1"),
        (lambda: Copying(min_length=0), "min_length must be at least 1, got 0"),
        (lambda: Copying(min_length=9, max_length=8), "max_length must be at least 9, got 8"),
        (lambda: AssociativeRecall(pairs=0), "pairs must be at least 1"),
        (lambda: AssociativeRecall(length=15), "must be at least 16, got 15"),
        (lambda: AssociativeRecall(vocab_size=9), "vocab_size .* must be at least 10, got 9"),
        (lambda: AssociativeRecall(power_a=0), "power_a must be positive, got 0"),
        (lambda: InductionHeads(vocab_size=2), "vocab_size must be at least 3, got 2"),
        (lambda: InductionHeads(length=2), "length must be at least 3, got 2"),
        (lambda: draw(Copying(), 0, 0), "batch_size must be at least 1, got 0"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
