"""Tasks that isolate one ability: copying, recall by key, and continuing a pattern.

Each is a seeded generator of batches, drawn as one example in its docstring (a dot is a position
that is not scored). Scores are those of :func:`ntlib.tasks.batch.accuracy`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ntlib.tasks.batch import IGNORED, Batch, Scored, at_least, distinct


@dataclass(frozen=True)
class Copying(Scored):
    """Repeat a random string after a separator (Jelassi et al. 2024, "Repeat After Me").

    The copy is scored up to and including the separator that ends it, so that a model must also
    know when to stop. Drawn with four symbols (2 to 5), a string of three, and room for four;
    0 pads, 1 separates:

        inputs    2 5 3 1 2 5 3 0 0
        targets   . . . 2 5 3 1 . .

    >>> task = Copying(symbols=4, min_length=3, max_length=4)
    >>> batch = task.sample(1, torch.Generator().manual_seed(2))
    >>> batch.inputs.tolist()
    [[2, 5, 3, 1, 2, 5, 3, 0, 0]]
    >>> batch.targets.tolist()
    [[-100, -100, -100, 2, 5, 3, 1, -100, -100]]
    """

    symbols: int = 26
    """Alphabet of the string; 26 letters as in the paper."""
    min_length: int = 1
    """Shortest string; equal to ``max_length`` to test at one length."""
    max_length: int = 32
    """Longest string: what a fixed-size state must hold is max_length * log2(symbols) bits."""

    DIFFICULTY = ("min_length", "max_length")
    PAD = 0
    SEPARATOR = 1

    def __post_init__(self) -> None:
        at_least(self.symbols, 2, "symbols")
        at_least(self.min_length, 1, "min_length")
        at_least(self.max_length, self.min_length, "max_length")

    @property
    def vocab_size(self) -> int:
        """Symbols, padding and separator."""
        return self.symbols + 2

    @property
    def length(self) -> int:
        """Positions in a sequence: the string, the separator, the copy."""
        return 2 * self.max_length + 1

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw (batch, 2 * max_length + 1) sequences, string lengths uniform."""
        at_least(batch_size, 1, "batch_size")
        shape = (batch_size, self.max_length)
        string = torch.randint(2, self.vocab_size, shape, generator=generator)
        sizes = torch.randint(
            self.min_length, self.max_length + 1, (batch_size, 1), generator=generator
        )
        position = torch.arange(self.length + 1).expand(batch_size, -1)
        # Position sizes + 1 + i repeats position i; both separators stand where no symbol does.
        source = torch.where(position < sizes, position, position - sizes - 1)
        is_symbol = (source >= 0) & (source < sizes) & (position <= 2 * sizes)
        sequence = string.gather(1, source.clamp(0, self.max_length - 1))
        sequence = torch.where(is_symbol, sequence, self.PAD)
        sequence[(position == sizes) | (position == 2 * sizes + 1)] = self.SEPARATOR
        now = position[:, :-1]
        inputs = torch.where(now <= 2 * sizes, sequence[:, :-1], self.PAD)
        scored = (now >= sizes) & (now <= 2 * sizes)
        return Batch(inputs, torch.where(scored, sequence[:, 1:], IGNORED))


@dataclass(frozen=True)
class AssociativeRecall(Scored):
    """Multi-query associative recall, MQAR (Arora et al. 2023, "Zoology", section 3 and app. E).

    Key-value pairs come first; later each key appears once more, and the model must name its
    value there. Keys are the lower half of the vocabulary without 0, values the upper half;
    neither repeats within a sequence. Query slots, counted from the end of the pairs, follow a
    power law: most queries come early. Drawn with a vocabulary of 12 (keys 1 to 5, values 6 to
    11), two pairs and length 10:

        inputs    5 6 3 9 5 0 3 0 0 0
        targets   . . . . 6 . 9 . . .

    Departure: Zoology fills the remaining positions with tokens of the whole vocabulary, which
    puts unscored keys among the queries; here ``random_filler`` draws values only.

    >>> task = AssociativeRecall(vocab_size=12, length=10, pairs=2, random_filler=False)
    >>> batch = task.sample(1, torch.Generator().manual_seed(2))
    >>> batch.inputs.tolist()
    [[5, 6, 3, 9, 5, 0, 3, 0, 0, 0]]
    >>> batch.targets.tolist()
    [[-100, -100, -100, -100, 6, -100, 9, -100, -100, -100]]
    """

    vocab_size: int = 8192
    """As in the paper; far more keys than a state has dimensions, so none can be hard-wired."""
    length: int = 64
    """Positions in a sequence; the paper uses 64, 128, 256 and 512."""
    pairs: int = 4
    """Key-value pairs to remember: the knob that separates architectures; length/16 to length/8."""
    power_a: float = 0.01
    """Query slot s has weight s ** (power_a - 1); the paper's value."""
    random_filler: bool = True
    """Fill positions between the queries with random values instead of 0."""

    DIFFICULTY = ("pairs",)
    BLANK = 0

    def __post_init__(self) -> None:
        at_least(self.pairs, 1, "pairs")
        # (length - 2 pairs) / 2 slots for queries, one each.
        at_least(self.length, 4 * self.pairs, "length (4 * pairs)")
        at_least(self.vocab_size, 2 * self.pairs + 2, "vocab_size (2 * pairs + 2)")
        if self.power_a <= 0:
            raise ValueError(f"power_a must be positive, got {self.power_a}")

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw (batch, length) sequences; ``pairs`` positions of each are scored."""
        at_least(batch_size, 1, "batch_size")
        half = self.vocab_size // 2
        keys = 1 + distinct(batch_size, half - 1, self.pairs, generator)
        values = half + distinct(batch_size, self.vocab_size - half, self.pairs, generator)
        shape = (batch_size, self.length)
        inputs = torch.full(shape, self.BLANK)
        if self.random_filler:
            inputs = torch.randint(half, self.vocab_size, shape, generator=generator)
        inputs[:, : 2 * self.pairs : 2] = keys
        inputs[:, 1 : 2 * self.pairs : 2] = values
        queries = 2 * self.pairs + 2 * self._gaps(batch_size, generator)
        targets = torch.full(shape, IGNORED)
        return Batch(inputs.scatter(1, queries, keys), targets.scatter(1, queries, values))

    def _gaps(self, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        """(batch, pairs) different query slots, small ones likelier."""
        slots = (self.length - 2 * self.pairs) // 2
        weights = torch.arange(1, slots + 1, dtype=torch.float64) ** (self.power_a - 1)
        return torch.multinomial(weights.expand(batch_size, -1), self.pairs, generator=generator)


@dataclass(frozen=True)
class InductionHeads(Scored):
    """Say what followed the special token before (Olsson et al. 2022; Gu & Dao 2023, app. E.1).

    One position holds a special token (the last of the vocabulary) and a random token follows
    it; the sequence ends with the special token again, and only the answer there is scored.
    Drawn with a vocabulary of 8 (7 is special) and length 8:

        inputs    5 7 3 4 0 6 2 7
        targets   . . . . . . . 3

    >>> task = InductionHeads(vocab_size=8, length=8)
    >>> batch = task.sample(1, torch.Generator().manual_seed(3))
    >>> batch.inputs.tolist()
    [[5, 7, 3, 4, 0, 6, 2, 7]]
    >>> batch.targets.tolist()
    [[-100, -100, -100, -100, -100, -100, -100, 3]]
    """

    vocab_size: int = 16
    """Ordinary tokens and the special one; the Mamba paper's value."""
    length: int = 256
    """Positions in a sequence; the Mamba paper trains at 256 and tests from 2^6 to 2^20."""
    shortest: int | None = None
    """If given, each batch has one of the lengths ``length``, half of it, and so on, down to this,
    and as many more sequences as they are shorter: with one scored token per sequence, long ones
    alone are slow to learn from."""

    DIFFICULTY = ("length",)

    def __post_init__(self) -> None:
        at_least(self.vocab_size, 3, "vocab_size")
        at_least(self.shortest or self.length, 3, "shortest" if self.shortest else "length")
        at_least(self.length, self.shortest or 3, "length")

    def held_out(self, count: int) -> Batch:
        """``count`` sequences of the full length, the same at each call."""
        return super(InductionHeads, replace(self, shortest=None)).held_out(count)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw (batch, length) sequences, the special token's first place uniform."""
        at_least(batch_size, 1, "batch_size")
        special, length = self.vocab_size - 1, self.length
        if self.shortest is not None:
            lengths = (length // self.shortest).bit_length()
            halvings = int(torch.randint(lengths, (), generator=generator))
            batch_size, length = batch_size << halvings, length >> halvings
        shape = (batch_size, length)
        inputs = torch.randint(special, shape, generator=generator)
        place = torch.randint(length - 2, (batch_size, 1), generator=generator)
        inputs.scatter_(1, place, special)
        inputs[:, -1] = special
        targets = torch.full(shape, IGNORED)
        targets[:, -1:] = inputs.gather(1, place + 1)
        return Batch(inputs, targets)
