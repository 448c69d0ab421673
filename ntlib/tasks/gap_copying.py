"""Copying what stood a fixed, or a random, time ago: the task that motivates Mamba.

In the first every answer repeats the input of a fixed number of steps ago, which one convolution
can do. In the second the places change from sequence to sequence, and a model must tell the
symbols from the noise by what they are (Gu & Dao 2023, 2312.00752, Fig. 2 and App. E.1: selective
copying).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ntlib.tasks.batch import IGNORED, Batch, Scored, at_least


@dataclass(frozen=True)
class GapCopying(Scored):
    """Say, at the end, all symbols of a sequence in their order; noise stands between them.

    Drawn with four symbols (2 to 5), three of them to copy, and eight steps to hide them in; 0 is
    noise, 1 asks. With random gaps, and without:

        inputs    0 2 5 0 0 3 0 0 1 1 1        inputs    2 0 5 0 0 3 0 0 1 1 1
        targets   . . . . . . . . 2 5 3        targets   . . . . . . . . 2 5 3

    >>> task = GapCopying(symbols=4, copied=3, context=8)
    >>> batch = task.sample(1, torch.Generator().manual_seed(2))
    >>> batch.inputs.tolist()
    [[0, 2, 5, 0, 0, 3, 0, 0, 1, 1, 1]]
    >>> batch.targets[:, 8:].tolist()
    [[2, 5, 3]]
    """

    symbols: int = 14
    """Alphabet; with noise and question the paper's vocabulary of 16."""
    copied: int = 16
    """Symbols to copy; the paper's value."""
    context: int = 64
    """Steps that hold the symbols and the noise; 4096 in the paper."""
    random_gaps: bool = True
    """Symbols stand at random places; otherwise at the same, evenly spread ones in every sequence.
    """
    shortest: int | None = None
    """If given, each batch has `context` steps for them, half as many, and so on, down to this, and
    as many more sequences: long contexts alone are slow to learn from."""

    DIFFICULTY = ("copied",)
    NOISE = 0
    ASK = 1

    def __post_init__(self) -> None:
        for name, least in (("symbols", 2), ("copied", 1), ("context", self.copied)):
            at_least(getattr(self, name), least, name)
        if self.shortest is not None and not self.copied <= self.shortest <= self.context:
            raise ValueError(
                f"shortest must be between copied = {self.copied} and context = {self.context}, "
                f"got {self.shortest}"
            )

    @property
    def vocab_size(self) -> int:
        """Symbols, noise and question."""
        return self.symbols + 2

    @property
    def length(self) -> int:
        """Steps of a sequence."""
        return self.context + self.copied

    def held_out(self, count: int) -> Batch:
        """``count`` sequences of the full length, the same at each call."""
        return super(GapCopying, replace(self, shortest=None)).held_out(count)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw (batch, context + copied) sequences; the last `copied` positions are scored."""
        at_least(batch_size, 1, "batch_size")
        if self.shortest is not None:
            contexts = (self.context // self.shortest).bit_length()
            halvings = int(torch.randint(contexts, (), generator=generator))
            shorter = replace(self, context=self.context >> halvings, shortest=None)
            return shorter.sample(batch_size << halvings, generator)
        shape = (batch_size, self.copied)
        symbols = torch.randint(2, self.vocab_size, shape, generator=generator)
        places = torch.arange(self.copied) * self.context // self.copied
        places = places.expand(shape)
        if self.random_gaps:
            order = torch.rand(batch_size, self.context, generator=generator)
            places = order.topk(self.copied).indices.sort(dim=1).values
        inputs = torch.full((batch_size, self.length), self.NOISE)
        inputs[:, self.context :] = self.ASK
        targets = torch.full_like(inputs, IGNORED)
        targets[:, self.context :] = symbols
        return Batch(inputs.scatter(1, places, symbols), targets)
