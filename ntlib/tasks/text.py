"""Language modelling on the default corpus, in the shape of a task."""

from dataclasses import dataclass

import torch

from ntlib.tasks.batch import Batch
from ntlib.tasks.corpus import Level, load_corpus


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
        """``count`` windows spread evenly over the validation split, the same at each call."""
        return load_corpus(self.level).windows("validation", self.length, count)
