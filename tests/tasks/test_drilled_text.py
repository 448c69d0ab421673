"""Text with drills in copying: a third of what is trained on, nothing of what is held out."""

import pytest
import torch

from ntlib.tasks import DrilledText, Text


def test_a_third_of_the_windows_repeats():
    task = DrilledText(length=64, shortest=4, longest=12)
    batch = task.sample(9, torch.Generator().manual_seed(0))
    plain = Text(64).sample(9, torch.Generator().manual_seed(0))
    assert torch.equal(batch.inputs[3:], plain.inputs[3:])
    for row in range(3):
        sequence = [*batch.inputs[row].tolist(), int(batch.targets[row, -1])]
        assert any(sequence[n:] == sequence[:-n] for n in range(4, 13))
        if row == 1:  # a passage of what would have stood there
            assert sequence[:4] == plain.inputs[row, :4].tolist()
        else:
            assert all(ord("a") <= token <= ord("z") for token in sequence)
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert torch.equal(task.held_out(4).inputs, Text(64).held_out(4).inputs)


def test_two_periods_must_fit():
    with pytest.raises(ValueError, match="length \\(2 \\* longest\\) must be at least 64"):
        DrilledText(length=63)
    with pytest.raises(ValueError, match="longest must be at least 30"):
        DrilledText(shortest=30, longest=20)
