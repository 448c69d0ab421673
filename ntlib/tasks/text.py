"""Language modelling on the default corpus, in the shape of a task."""

from dataclasses import dataclass

import torch

from ntlib.tasks.batch import HELD_OUT_SEED, Batch, at_least
from ntlib.tasks.corpus import Level, load_corpus
from ntlib.tasks.sources import Split


@dataclass(frozen=True)
class Text:
    """Predict the next token of windows of the default corpus."""

    length: int = 128
    """Tokens of context in a window."""
    level: Level = "bytes"
    """``"bytes"`` (256 tokens) or ``"bpe"``."""

    @property
    def vocab_size(self) -> int:
        """Tokens of the level."""
        return load_corpus(self.level).vocab_size

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Random windows of the training split, (batch, length)."""
        return load_corpus(self.level).sample("train", batch_size, self.length, generator)

    def held_out(self, count: int) -> Batch:
        """``count`` windows of the validation split, the same at each call."""
        return self.windows("validation", count)

    def windows(self, split: Split, count: int) -> Batch:
        """``count`` windows spread evenly over a split, the same at each call."""
        return load_corpus(self.level).windows(split, self.length, count)


@dataclass(frozen=True)
class RepeatingText(Text):
    """Windows of the default corpus in which one passage comes again: some bytes further on, the
    text is written over with bytes that stood before.

    Everything is predicted and scored as in Text. Small models hardly learn to copy from real text
    in the time that they have; here copying is worth a large part of the loss.
    """

    shortest: int = 24
    """Tokens of a passage, at least."""
    longest: int = 48
    """Tokens of a passage, at most."""

    def __post_init__(self) -> None:
        at_least(self.shortest, 1, "shortest")
        at_least(self.longest, self.shortest, "longest")
        at_least(self.length + 1, 2 * self.longest, "length + 1 (2 * longest)")

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Random windows of the training split, (batch, length)."""
        return self._repeating(super().sample(batch_size, generator), generator)

    def windows(self, split: Split, count: int) -> Batch:
        """``count`` windows spread evenly over a split, the same at each call."""
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        return self._repeating(super().windows(split, count), generator)

    def _repeating(self, batch: Batch, generator: torch.Generator) -> Batch:
        tokens = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1)
        count, length = tokens.shape
        size = torch.randint(self.shortest, self.longest + 1, (count, 1), generator=generator)
        spare = length - 2 * size  # tokens before, between and behind the two copies
        ends = (torch.rand(count, 2, generator=generator) * (spare + 1)).long().sort(dim=1).values
        first, second = ends[:, :1], ends[:, 1:] + size
        place = torch.arange(length).expand(count, -1)
        again = (place >= second) & (place < second + size)
        tokens = tokens.gather(1, torch.where(again, place - second + first, place))
        return Batch(tokens[:, :-1], tokens[:, 1:])
