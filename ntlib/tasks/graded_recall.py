"""Recall with few and with many keys in turn, so that the easy batches teach what the hard ones
need."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntlib.tasks.batch import Batch, at_least
from ntlib.tasks.synthetic import AssociativeRecall


@dataclass(frozen=True)
class GradedRecall:
    """AssociativeRecall in several sizes, one per batch: 2 pairs in 16 tokens, 4 in 32 and so on.

    Many pairs alone are a plateau that small models leave late or never: nothing is learnt until
    keys are compared, and the more there are, the less a lucky comparison is worth. Published
    trainings on recall raise the number of pairs step by step (Dao and Gu 2405.21060, Sec. 9.1).
    Here sizes come at random, so that the task needs no notion of a step. All ask for every key
    once, and smaller ones fill a batch with more sequences.
    """

    vocab_size: int = 32
    """Keys are the lower half without 0, values the upper half."""
    sizes: tuple[int, ...] = (2, 4, 8, 12)
    """Pairs in a sequence; one of these per batch, more often if it stands here twice."""
    stretch: int = 8
    """Positions per pair; 4 are the least that the task needs."""

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ValueError("sizes must name at least one number of pairs, got ()")
        for pairs in self.sizes:
            self.sized(pairs)

    @property
    def length(self) -> int:
        """Positions of the longest sequences."""
        return self.stretch * max(self.sizes)

    def sized(self, pairs: int, length: int | None = None) -> AssociativeRecall:
        """The task with so many pairs, at `length` instead of `stretch` positions per pair."""
        length = length or self.stretch * pairs
        return AssociativeRecall(self.vocab_size, length, pairs, random_filler=False)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw about ``batch_size`` times ``length`` tokens as sequences of one size."""
        at_least(batch_size, 1, "batch_size")
        pairs = self.sizes[int(torch.randint(len(self.sizes), (), generator=generator))]
        return self.sized(pairs).sample(batch_size * max(self.sizes) // pairs, generator)

    def held_out(self, count: int) -> Batch:
        """``count`` sequences of the largest size, the same at each call."""
        return self.sized(max(self.sizes)).held_out(count)
