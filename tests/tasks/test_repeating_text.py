"""Text in which a passage comes again: the rest is untouched."""

import pytest
import torch

from ntlib.tasks import RepeatingText, Text


def test_one_passage_comes_again():
    task = RepeatingText(length=100, shortest=20, longest=30)
    plain, batch = Text(100).held_out(64), task.held_out(64)
    changed = batch.targets != plain.targets
    for row in range(64):
        places = changed[row].nonzero().flatten().tolist()
        if not places:
            continue  # written over with what stood there
        first, last = places[0] + 1, places[-1] + 1
        assert last - first < 30
        sequence = bytes([int(batch.inputs[row, 0]), *batch.targets[row].tolist()])
        assert sequence[first : last + 1] in sequence[:first]
    assert changed.any(dim=1).double().mean() > 0.9
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert torch.equal(task.held_out(64).inputs, batch.inputs)


def test_both_copies_must_fit():
    with pytest.raises(ValueError, match="length \\+ 1 \\(2 \\* longest\\) must be at least 96"):
        RepeatingText(length=94)
    with pytest.raises(ValueError, match="longest must be at least 30"):
        RepeatingText(shortest=30, longest=20)
