"""Copying at fixed and at random gaps: the same answers, other places."""

import doctest
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlib.tasks import IGNORED, GapCopying, gap_copying
from tests.tasks.sequences import draw


def test_drawn_examples_are_real():
    assert doctest.testmod(gap_copying) == (0, 4)


@given(
    symbols=st.integers(2, 20),
    copied=st.integers(1, 8),
    slack=st.integers(0, 20),
    random_gaps=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_answers_are_the_symbols_in_their_order(symbols, copied, slack, random_gaps, seed):
    task = GapCopying(symbols, copied, copied + slack, random_gaps)
    for inputs, targets in zip(*draw(task, 3, seed), strict=True):
        seen, asked = inputs[: task.context], inputs[task.context :]
        assert seen[seen != task.NOISE].tolist() == targets[task.context :].tolist()
        assert (targets[: task.context] == IGNORED).all()
        assert (asked == task.ASK).all()
        assert len(asked) == copied
        assert targets[task.context :].min() >= 2
        assert inputs.max() < task.vocab_size


def test_gaps_are_fixed_or_not():
    task = GapCopying(copied=4, context=16)
    for random_gaps in (False, True):
        inputs = draw(replace(task, random_gaps=random_gaps), 4000, 0).inputs[:, :16]
        held = (inputs != task.NOISE).double().mean(0)
        if random_gaps:
            torch.testing.assert_close(held, torch.full_like(held, 0.25), atol=0.04, rtol=0)
        else:
            assert held.nonzero().flatten().tolist() == [0, 4, 8, 12]
            assert (held[::4] == 1).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GapCopying(symbols=1), "symbols must be at least 2, got 1"),
        (lambda: GapCopying(copied=0), "copied must be at least 1, got 0"),
        (lambda: GapCopying(copied=9, context=8), "context must be at least 9, got 8"),
        (lambda: draw(GapCopying(), 0, 0), "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
