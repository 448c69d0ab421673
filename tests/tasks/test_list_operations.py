"""ListOps: every list follows the grammar and has the value of an evaluator written another way."""

import doctest
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlib.tasks import ListOps, list_operations
from ntlib.tasks.list_operations import OPERATORS, PAD
from tests.tasks.blind import accuracy_of_linear_model, one_hot
from tests.tasks.sequences import draw

EVALUATE = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SUM_MOD": lambda values: sum(values) % 10,
}


def evaluate(words, max_args):
    """Value, depth and what is left of the words after one list or digit."""
    head, *rest = words
    if head.isdigit():
        return int(head), 0, rest
    values, depth = [], 0
    while rest[0] != "]":
        value, inner, rest = evaluate(rest, max_args)
        values.append(value)
        depth = max(depth, inner)
    assert 2 <= len(values) <= max_args
    return EVALUATE[head](values), depth + 1, rest[1:]


def test_drawn_examples_are_real():
    assert doctest.testmod(list_operations) == (0, 4)


@given(
    length=st.integers(12, 80),
    depth=st.integers(3, 10),
    args=st.integers(4, 10),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_lists_have_their_value(length, depth, args, seed):
    task = ListOps(length, max_depth=max(depth, length // 10), max_args=args)
    inputs, targets = draw(task, 2, seed)
    assert inputs.shape == (2, length)
    assert targets.shape == (2, 1)
    for row, target in zip(inputs, targets[:, 0].tolist(), strict=True):
        size = int((row != PAD).sum())
        assert length // 2 <= size <= length
        assert (row[: length - size] == PAD).all()  # padding is in front
        value, deepest, rest = evaluate(task.words(row[length - size :]).split(), args)
        assert (value, rest) == (target, [])
        assert deepest <= task.max_depth


def test_values_and_outermost_operators_are_independent_and_uniform():
    inputs, targets = draw(ListOps(16, max_args=5), 8000, 0)
    first = inputs.gather(1, (inputs == PAD).sum(1, keepdim=True)) - len(list_operations.WORDS) + 4
    counts = torch.zeros(len(OPERATORS), 10).index_put_(
        (first[:, 0], targets[:, 0]), torch.ones(8000), accumulate=True
    )
    assert (counts - 200).abs().max() < 5 * 200**0.5


def test_batches_are_seeded():
    task = ListOps(24)
    assert torch.equal(draw(task, 5, 1).inputs, draw(task, 5, 1).inputs)
    assert not torch.equal(draw(task, 5, 1).inputs, draw(task, 5, 2).inputs)
    assert torch.equal(task.held_out(3).inputs, task.held_out(3).inputs)


@pytest.mark.slow
@pytest.mark.parametrize("length", [64, 128])
def test_blind_models_are_near_chance(length):
    """One of ten: of the outermost operator nothing is to be read, of the tokens' counts a little,
    and less the longer the list."""
    batch = draw(ListOps(length, max_args=5), 4000, 0)
    bag = one_hot(batch.inputs, len(list_operations.WORDS)).sum(1)
    first = batch.inputs.gather(1, (batch.inputs == PAD).sum(1, keepdim=True))
    assert accuracy_of_linear_model(first.float(), batch.targets) < 0.14
    assert accuracy_of_linear_model(bag, batch.targets) < 0.22


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ListOps(7), "length must be at least 8, got 7"),
        (lambda: ListOps(max_depth=0), "max_depth must be at least 1, got 0"),
        (lambda: ListOps(max_args=1), "max_args must be at least 2, got 1"),
        (lambda: draw(ListOps(), 0, 0), "batch_size must be at least 1"),
        (lambda: draw(ListOps(64, max_depth=1), 1, 0), "max_depth = 1 or max_args = 10"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
