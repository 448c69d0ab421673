"""ListOps: evaluate a nested list, such as [MAX 2 9 [MIN 4 7 ] 0 ], to a digit.

The grammar of Nangia & Bowman (1804.06028) with the constants of the Long Range Arena
(2011.04006): four operators, 2 to `max_args` arguments, each a list with probability 1/4 and a
digit otherwise, lists nested at most `max_depth` deep.

Departure: the outermost operator and the value are drawn uniformly and independently, and then
lists until one has both. Under the grammar alone that operator tells much: a MAX of many is a 9.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch

from ntlib.tasks.batch import Batch, Scored

PAD, CLOSE = 0, 11  # digit d is the token d + 1
ATTEMPTS = 1_000_000  # lists drawn for one that is kept; usual are some hundreds
OPERATORS = ("MIN", "MAX", "MED", "SUM_MOD")
WORDS = (".", *"0123456789", "]", *(f"[{name}" for name in OPERATORS))
"""What each token stands for."""


@dataclass(frozen=True)
class ListOps(Scored):
    """Inputs (batch, length) end with the list, padded in front; targets (batch, 1) are its value.

    MED is the median, rounded down between two middle values; SUM_MOD the sum modulo 10. Drawn with
    length 12:

        . [MIN 1 5 [MED 4 3 3 1 5 ] ]       has the value 1

    >>> task = ListOps(length=12, max_depth=3, max_args=5)
    >>> batch = task.sample(1, torch.Generator().manual_seed(7))
    >>> print(task.words(batch.inputs[0]))
    . [MIN 1 5 [MED 4 3 3 1 5 ] ]
    >>> batch.targets.tolist()
    [[1]]
    """

    length: int = 128
    """Most tokens of a list; the shortest have half as many. The Arena's have 500 to 2000."""
    max_depth: int = 10
    """Lists within each other, the outermost included."""
    max_args: int = 10
    """Arguments of a list; the fewest are 2."""

    classes = 10
    vocab_size = len(WORDS)

    def __post_init__(self) -> None:
        for name, least in (("length", 8), ("max_depth", 1), ("max_args", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw lists of length / 2 to length tokens, every value alike."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        random = np.random.default_rng(torch.randint(2**62, (), generator=generator).item())
        labels = torch.randint(self.classes, (batch_size, 1), generator=generator)
        tokens = torch.zeros(batch_size, self.length, dtype=torch.int64)
        sizes = self.max_depth, self.max_args
        if not _draw(random, labels[:, 0].numpy(), tokens.numpy(), *sizes, ATTEMPTS):
            raise ValueError(
                f"no list of {self.length // 2} to {self.length} tokens in {ATTEMPTS} attempts: "
                f"max_depth = {self.max_depth} or max_args = {self.max_args} is too small"
            )
        return Batch(tokens, labels)

    def words(self, tokens: torch.Tensor) -> str:
        """One sequence to read."""
        return " ".join(WORDS[token] for token in tokens.tolist())


@numba.njit(cache=True)
def _draw(random, labels, tokens, max_depth, max_args, attempts):
    """Fill the rows of tokens; False if one takes too many attempts."""
    most = tokens.shape[1]
    row = np.empty(most, np.int64)
    for i in range(len(labels)):
        operator, size, value, tried = random.integers(0, 4), 0, -1, 0
        while size < most // 2 or value != labels[i]:
            if tried == attempts:
                return False
            size, value = _list(random, row, operator, max_depth, max_args)
            tried += 1
        tokens[i, most - size :] = row[:size]
    return True


@numba.njit(cache=True)
def _list(random, row, operator, max_depth, max_args):
    """Write a random list of this operator into row; returns the number of its tokens and its
    value, or 0 and -1 if there is no room."""
    operators, left = np.empty(max_depth, np.int64), np.empty(max_depth, np.int64)
    values, counts = np.empty((max_depth, max_args), np.int64), np.empty(max_depth, np.int64)
    depth, size, opens = -1, 0, True
    while True:
        if size + depth + 2 > len(row):  # not even room to close what is open
            return 0, -1
        if opens:
            depth += 1
            operators[depth] = operator if depth == 0 else random.integers(0, 4)
            counts[depth] = 0
            left[depth] = random.integers(2, max_args + 1)
            row[size] = CLOSE + 1 + operators[depth]
        elif left[depth] > 0:
            value = random.integers(0, 10)
            values[depth, counts[depth]] = value
            counts[depth] += 1
            left[depth] -= 1
            row[size] = value + 1
        else:
            row[size] = CLOSE
            value = _value(operators[depth], values[depth, : counts[depth]])
            depth -= 1
            if depth < 0:
                return size + 1, value
            values[depth, counts[depth]] = value
            counts[depth] += 1
        size += 1
        opens = left[depth] > 0 and depth + 1 < max_depth and random.random() < 0.25
        if opens:
            left[depth] -= 1


@numba.njit(cache=True)
def _value(operator, values):
    if operator == 0:
        return values.min()
    if operator == 1:
        return values.max()
    if operator == 2:
        ordered = np.sort(values)
        return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) // 2
    return values.sum() % 10
