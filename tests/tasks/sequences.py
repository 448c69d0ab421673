"""How tests draw from tasks, and what holds for every task of sequences of tokens."""

import torch

from ntlib.tasks import IGNORED


def draw(task, batch_size, seed):
    return task.sample(batch_size, torch.Generator().manual_seed(seed))


def check_seeded_and_well_formed(task):
    """The same seed gives the same batch, another one another; shapes and tokens are in range."""
    batch, again, other = draw(task, 5, 1), draw(task, 5, 1), draw(task, 5, 2)
    assert torch.equal(batch.inputs, again.inputs)
    assert torch.equal(batch.targets, again.targets)
    assert not torch.equal(batch.inputs, other.inputs)
    for tensor in batch:
        assert tensor.shape == (5, task.length)
        assert tensor.dtype == torch.int64
    assert 0 <= batch.inputs.min() <= batch.inputs.max() < task.vocab_size
    scored = batch.targets[batch.targets != IGNORED]
    assert 0 <= scored.min() <= scored.max() < task.vocab_size
