"""Recall of several sizes: one per batch, all with as many tokens."""

import pytest
import torch

from ntlib.tasks import IGNORED, GradedRecall

TASK = GradedRecall(keys=8, values=8, sizes=(2, 4, 8), stretch=6)


def test_every_size_comes_and_fills_the_batch():
    generator = torch.Generator().manual_seed(0)
    shapes = {tuple(TASK.sample(3, generator).inputs.shape) for _ in range(30)}
    assert shapes == {(12, 12), (6, 24), (3, 48)}
    assert TASK.length == 48
    assert TASK.vocab_size == 17


def test_sizes_differ_in_pairs_and_are_asked_alike():
    for pairs in (2, 8):
        batch = TASK.sized(pairs).held_out(256)
        keys = batch.inputs[(batch.inputs > 0) & (batch.inputs <= TASK.keys)]
        assert set(keys.tolist()) <= set(range(1, TASK.keys + 1))
        assert max(len(set(row[row <= TASK.keys].tolist()) - {0}) for row in batch.inputs) == pairs
        per_pair = (batch.targets != IGNORED).sum() / (256 * pairs)
        assert 1.5 < per_pair < 2.5  # three slots per pair, of which one is the first
    assert torch.equal(TASK.held_out(4).inputs, TASK.sized(8).held_out(4).inputs)
    assert TASK.sized(2, 40).length == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": ()}, "sizes must name at least one"),
        ({"sizes": (4, 9)}, "keys and key_size must make pairs = 9"),
        ({"stretch": 3}, "stretch must be at least 4"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GradedRecall(**({"keys": 8, "values": 8, "sizes": (4,)} | changes))
