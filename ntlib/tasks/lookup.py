"""Looking a key up in a string, and where the question stands: before, after, or on both sides.

A model with a fixed memory that knows the question can wait for the answer; one that does not must
keep everything (Jelassi et al. 2402.01032, "Repeat After Me": prefix and suffix keys; Arora et al.
2407.05483, "Just Read Twice": the context repeated).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ntlib.tasks.batch import IGNORED, Batch, Scored, at_least

Order = Literal["after", "before", "both", "twice"]
"""Where the question stands: after the context (suffix key), before it (prefix key), on both sides;
or context and question twice, which is what "Just Read Twice" gives to a trained model."""

_C, _Q = "context", "question"
_PARTS = {"after": (_C, _Q), "before": (_Q, _C, ""), "both": (_Q, _C, _Q), "twice": (_C, _Q) * 2}
ATTEMPTS = 1000  # draws of what must be unique; the first ones do unless it is nearly impossible


def check_order(order: str) -> None:
    """Raise ValueError that lists the orders."""
    if order not in _PARTS:
        raise ValueError(f"order must be one of {get_args(Order)}, got {order!r}")


def arrange(
    context: torch.Tensor,
    question: torch.Tensor,
    answer: torch.Tensor,
    order: Order,
    separator: torch.Tensor,
) -> Batch:
    """A batch that asks for `answer`, token by token, at the end; all are (batch, own length).

    The separator (length,) stands between the parts, and before the answer where no question does.
    """
    given = {_C: context, _Q: question, "": context[:, :0]}
    between = separator.expand(len(context), -1)
    pieces = [piece for name in _PARTS[order] for piece in (between, given[name])]
    sequence = torch.cat([*pieces[1:], answer], dim=1)
    targets = torch.full_like(sequence[:, 1:], IGNORED)
    targets[:, -answer.shape[1] :] = answer
    return Batch(sequence[:, :-1], targets)


def arranged_length(context: int, question: int, answer: int, order: Order, separator: int) -> int:
    """Positions of what `arrange` makes of parts of these lengths."""
    sizes = {_C: context, _Q: question, "": 0}
    parts = _PARTS[order]
    return sum(sizes[name] for name in parts) + separator * (len(parts) - 1) + answer - 1


def to_bytes(text: str) -> torch.Tensor:
    """(bytes,) of a text, int64."""
    return torch.tensor(list(text.encode()))


def read_bytes(tokens: torch.Tensor) -> str:
    """Text of a sequence of bytes; a dot where a target is not scored."""
    shown = torch.where(tokens == IGNORED, ord("."), tokens)
    return bytes(shown.tolist()).decode(errors="replace")


@dataclass(frozen=True)
class NGramLookup(Scored):
    """What follows the n-gram that is asked for? (2402.01032, Sec. 3.3, and its code.)

    The n-gram occurs once in the string. Drawn with four symbols (a to d), a string of seven, a
    key of two and an answer of two; 0 pads short strings in front, 1 separates (| in words):

        after                                      before
        inputs    a d b a c d c | a d b            inputs    a d | a d b a c d c | b
        targets   . . . . . . . . . b a            targets   . . . . . . . . . . b a

    Departure: the published code may ask for an n-gram that occurs again, and has the model end
    its answer with a full stop.

    >>> task = NGramLookup(symbols=4, key=2, answer=2, min_length=7, max_length=7)
    >>> batch = task.sample(1, torch.Generator().manual_seed(2))
    >>> print(task.words(batch.inputs[0]))
    a d b a c d c | a d b
    >>> print(task.words(batch.targets[0]))
    . . . . . . . . . b a
    """

    symbols: int = 26
    """Alphabet of the string; 26 letters as in the paper."""
    key: int = 3
    """Symbols of the n-gram; the value of the paper's code."""
    answer: int = 4
    """Symbols to say; all that follow, in the paper's code."""
    min_length: int = 16
    """Shortest string; equal to ``max_length`` to test at one length."""
    max_length: int = 32
    """Longest string."""
    order: Order = "after"
    """Where the n-gram stands."""

    DIFFICULTY = ("min_length", "max_length")
    PAD = 0
    SEPARATOR = 1

    def __post_init__(self) -> None:
        at_least(self.symbols, 2, "symbols")
        at_least(self.key, 1, "key")
        at_least(self.answer, 1, "answer")
        at_least(self.min_length, self.key + self.answer, "min_length (key + answer)")
        at_least(self.max_length, self.min_length, "max_length")
        check_order(self.order)

    @property
    def vocab_size(self) -> int:
        """Symbols, padding and separator."""
        return self.symbols + 2

    @property
    def length(self) -> int:
        """Positions in a sequence."""
        return arranged_length(self.max_length, self.key, self.answer, self.order, 1)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw (batch, length) sequences; string lengths uniform, short ones padded in front."""
        at_least(batch_size, 1, "batch_size")
        string, start = self._strings(batch_size, generator)
        question = string.gather(1, start + torch.arange(self.key))
        answer = string.gather(1, start + self.key + torch.arange(self.answer))
        return arrange(string, question, answer, self.order, torch.tensor([self.SEPARATOR]))

    def words(self, tokens: torch.Tensor) -> str:
        """One sequence to read: letters, | between the parts, a dot for padding or not scored."""
        return " ".join(_LETTERS.get(token, f"s{token}") for token in tokens.tolist())

    def _strings(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(count, max_length) strings and (count, 1) places of n-grams that occur once in them."""
        strings, starts = [], []
        for _ in range(ATTEMPTS):
            string, unique = self._draw(count, generator)
            usable = unique.any(dim=1)
            draw = torch.rand(unique.shape, generator=generator)
            strings.append(string[usable])
            starts.append((draw * unique).argmax(dim=1, keepdim=True)[usable])
            count -= int(usable.sum())
            if count == 0:
                return torch.cat(strings), torch.cat(starts)
        raise ValueError(
            f"no {self.key}-gram of {self.symbols} symbols occurs once in {self.min_length} to "
            f"{self.max_length} of them, in {ATTEMPTS} attempts: key or symbols is too small"
        )

    def _draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Random strings and, for each place, whether an n-gram that may be asked begins there."""
        shape = (count, self.max_length)
        string = torch.randint(2, self.vocab_size, shape, generator=generator)
        sizes = torch.randint(self.min_length, self.max_length + 1, (count, 1), generator=generator)
        string[torch.arange(self.max_length) < self.max_length - sizes] = self.PAD
        grams = string.unfold(1, self.key, 1)
        same = (grams[:, :, None] == grams[:, None]).all(dim=-1).sum(dim=2)
        unique = (same == 1) & (grams != self.PAD).all(dim=-1)
        return string, unique[:, : self.max_length - self.key - self.answer + 1]


_LETTERS = {IGNORED: ".", 0: ".", 1: "|"} | {2 + i: chr(ord("a") + i) for i in range(26)}
