"""Invariants of the state-tracking tasks over random settings, seeds and lengths."""

import doctest
import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlib.tasks import Composition, Counting, state_tracking
from ntlib.tasks.state_tracking import products
from tests.tasks.sequences import check_seeded_and_well_formed, draw

TASKS = [Counting(2, 9), Counting(5, 9), Composition("S3", 9), Composition("A5", 9)]
GROUPS = ["S2", "S3", "S4", "S5", "A3", "A4", "A5"]
seeds = st.integers(0, 2**31)


def test_drawn_examples_are_real():
    assert doctest.testmod(state_tracking) == (0, 8)


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_batches_are_seeded_and_every_position_is_scored(task):
    check_seeded_and_well_formed(task)
    assert draw(task, 5, 1).targets.min() >= 0
    assert torch.equal(task.held_out(3).inputs, task.held_out(3).inputs)


@given(modulus=st.integers(2, 9), length=st.integers(1, 40), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_counting_counts(modulus, length, seed):
    inputs, targets = draw(Counting(modulus, length), 3, seed)
    for row, states in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert set(row) <= {0, 1}
        assert states == [sum(row[: t + 1]) % modulus for t in range(length)]


@given(group=st.sampled_from(GROUPS), length=st.integers(1, 12), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_composition_composes(group, length, seed):
    """The permutations themselves, applied one after the other to a row of things."""
    degree = int(group[1])
    elements = list(permutations(range(degree)))
    if group[0] == "A":
        # even: the determinant of the permutation matrix is 1
        eye = torch.eye(degree)
        elements = [p for p in elements if torch.linalg.det(eye[list(p)]) > 0]
    assert elements == state_tracking.elements(group)
    inputs, targets = draw(Composition(group, length), 2, seed)
    for row, states in zip(inputs.tolist(), targets.tolist(), strict=True):
        where = list(range(degree))
        for element, state in zip(row, states, strict=True):
            where = [elements[element][place] for place in where]
            assert tuple(where) == elements[state]


@pytest.mark.parametrize("group", GROUPS)
def test_tables_are_groups(group):
    table = products(group)
    order = len(table)
    assert order == math.factorial(int(group[1])) // (1 if group[0] == "S" else 2)
    everything = torch.arange(order)
    assert torch.equal(table[0], everything)  # 0 is the identity
    assert torch.equal(table[:, 0], everything)
    assert torch.equal(table.sort(dim=0).values, everything[:, None].expand(-1, order))
    a, b, c = torch.randint(order, (3, 50), generator=torch.Generator().manual_seed(0))
    assert torch.equal(table[table[a, b], c], table[a, table[b, c]])


def test_swaps_only():
    inputs, targets = draw(Composition("S4", 30, moves=2), 20, 0)
    identity = tuple(range(4))
    for number in inputs.unique().tolist():
        moved = sum(a != b for a, b in zip(state_tracking.elements("S4")[number], identity))
        assert moved in (0, 2)
    assert inputs.unique().numel() == 1 + 6
    assert targets.unique().numel() == 24  # swaps generate the whole group
    assert draw(Composition("A5", 30, moves=3), 20, 0).inputs.unique().numel() == 1 + 20


def test_which_groups_commute():
    commute = {group: torch.equal(products(group), products(group).T) for group in GROUPS}
    assert commute == {g: g in ("S2", "A3") for g in GROUPS}


def test_longer_sequences_continue_shorter_ones():
    """A length is a free choice: the task stays the same function of its prefix."""
    task = Composition("S4", 6)
    longer = draw(replace(task, length=20), 4, 0)
    states = longer.targets[:, :6]
    rest = [products("S4")[g, s] for g, s in zip(longer.inputs[:, 6], states[:, -1], strict=True)]
    assert torch.equal(longer.targets[:, 6], torch.stack(rest))


def test_scores_see_one_wrong_state():
    task = Counting(3, 8)
    batch = draw(task, 2, 0)
    logits = torch.nn.functional.one_hot(batch.targets, 3).float()
    assert task.score(logits, batch) == {"token_accuracy": 1.0, "sequence_accuracy": 1.0}
    logits[0, 3] = logits[0, 3].roll(1)
    assert task.score(logits, batch) == {"token_accuracy": 15 / 16, "sequence_accuracy": 0.5}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Counting(1), "modulus must be at least 2, got 1"),
        (lambda: Counting(length=0), "length must be at least 1, got 0"),
        (lambda: Composition("D4"), "group must be S or A followed by 2 to 6"),
        (lambda: Composition("S9"), "got 'S9'"),
        (lambda: Composition("S55"), "got 'S55'"),
        (lambda: Composition("S3", moves=1), "moves must be at least 2, got 1"),
        (lambda: Composition("A4", moves=2), "moves must be at least 3, got 2"),
        (lambda: Composition(length=0), "length must be at least 1"),
        (lambda: draw(Counting(), 0, 0), "batch_size must be at least 1"),
        (lambda: draw(Composition(), 0, 0), "batch_size must be at least 1"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
