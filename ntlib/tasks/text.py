"""Language modelling on the default corpus, in the shape of a task."""

from dataclasses import dataclass

import torch

from ntlib.tasks.batch import Batch, at_least
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
class DrilledText(Text):
    """Text with drills in copying: in training, one window of three repeats with a period of its
    own, either random small letters or a passage of text, in turn. What is held out is text.

    Small models hardly learn to copy from real text in hundreds of steps, since little is gained by
    it; behind the first period of a drill there is nothing else to go by.
    """

    shortest: int = 8
    """Bytes of a period, at least."""
    longest: int = 32
    """Bytes of a period, at most."""

    def __post_init__(self) -> None:
        at_least(self.shortest, 1, "shortest")
        at_least(self.longest, self.shortest, "longest")
        at_least(self.length, 2 * self.longest, "length (2 * longest)")

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Random windows of the training split, the first third of them drills: (batch, length)."""
        text = super().sample(batch_size, generator)
        drills = self._drills(text.inputs[: batch_size // 3, : self.longest], generator)
        tokens = torch.cat([text.inputs, text.targets[:, -1:]], dim=1)
        tokens[: len(drills)] = drills
        return Batch(tokens[:, :-1], tokens[:, 1:])

    def _drills(self, passages: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(count, length + 1) windows that repeat: random letters, then a passage, and so on."""
        count, longest = passages.shape
        letters = torch.randint(ord("a"), ord("z") + 1, (count, longest), generator=generator)
        turn = torch.arange(count)[:, None] % 2
        period = torch.randint(self.shortest, longest + 1, (count, 1), generator=generator)
        place = torch.arange(self.length + 1) % period
        return torch.where(turn == 0, letters, passages).gather(1, place)
