"""Recall of several sizes: one per batch, all with as many tokens."""

import pytest
import torch

from ntlib.tasks import IGNORED, AssociativeRecall, GradedRecall

TASK = GradedRecall(vocab_size=20, sizes=(2, 4, 8), stretch=6)


def test_every_size_comes_and_fills_the_batch():
    generator = torch.Generator().manual_seed(0)
    shapes = {tuple(TASK.sample(3, generator).inputs.shape) for _ in range(30)}
    assert shapes == {(12, 12), (6, 24), (3, 48)}
    assert TASK.length == 48


def test_sizes_are_those_of_associative_recall():
    assert TASK.sized(4) == AssociativeRecall(20, 24, 4, random_filler=False)
    assert TASK.sized(4, 90).length == 90
    assert torch.equal(TASK.held_out(4).inputs, TASK.sized(8).held_out(4).inputs)
    assert (TASK.held_out(4).targets != IGNORED).sum() == 4 * 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": ()}, "sizes must name at least one"),
        ({"sizes": (4, 10)}, "vocab_size"),
        ({"stretch": 3}, "length"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GradedRecall(**({"vocab_size": 20, "sizes": (4,)} | changes))
