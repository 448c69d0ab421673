"""A phone book to read, and the number of one name to give: recall in the shape of text.

Bytes, as in the default corpus, so that a language model can also be asked without training.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch

from ntlib.tasks.batch import Batch, Scored, at_least, distinct
from ntlib.tasks.lookup import (
    Order,
    arrange,
    arranged_length,
    check_order,
    read_bytes,
    to_bytes,
)

NAMES = torch.tensor(list(product(b"BDFGHJKLMNPRSTVZ", b"aeiou", b"bdfghjklmnprstvz", b"aeiou")))
"""(names, 4) bytes: Baba, Babe ..."""


@dataclass(frozen=True)
class PhoneBook(Scored):
    """The phone book of Jelassi et al. (2402.01032, Sec. 4.2): a line per entry, two entries once
    more as examples, and the name of another, whose number is asked for.

    If the name stands before the book only, the number follows the examples and an empty line.

    Departure: names are made up and have four letters, so that all lines are equally long; the
    published code draws English first and last names.

    >>> task = PhoneBook(entries=3, digits=4)
    >>> batch = task.sample(1, torch.Generator().manual_seed(0))
    >>> print(task.words(batch.inputs[0]))
    Buta: 7052
    Leda: 8487
    Bugi: 6898
    <BLANKLINE>
    Leda: 8487
    Bugi: 6898
    <BLANKLINE>
    Buta: 705
    >>> task.words(batch.targets[0, -4:])
    '7052'
    """

    entries: int = 20
    """Lines of the book."""
    digits: int = 10
    """Of a number, the first is 6 to 9; the paper's value."""
    order: Order = "after"
    """Where the name stands."""

    DIFFICULTY = ("entries",)
    vocab_size = 256

    def __post_init__(self) -> None:
        at_least(self.entries, 3, "entries")
        at_least(self.digits, 1, "digits")
        if self.entries > len(NAMES):
            raise ValueError(f"entries must be at most {len(NAMES)}, got {self.entries}")
        check_order(self.order)

    @property
    def length(self) -> int:
        """Bytes in a sequence."""
        question = NAMES.shape[1] + len(": ")
        context = (self.entries + 2) * (question + self.digits + 1)
        return arranged_length(context, question, self.digits, self.order, len("\n\n"))

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw (batch, length) sequences; the names of a book differ."""
        at_least(batch_size, 1, "batch_size")
        names = NAMES[distinct(batch_size, len(NAMES), self.entries, generator)]
        shape = (batch_size, self.entries, self.digits)
        numbers = torch.randint(10, shape, generator=generator)
        numbers[..., 0] = torch.randint(6, 10, shape[:2], generator=generator)
        numbers += ord("0")
        colon, end = (to_bytes(text).expand(*shape[:2], -1) for text in (": ", "\n"))
        lines = torch.cat([names, colon, numbers, end], dim=2)
        # two examples and the question: three different entries
        chosen = distinct(batch_size, self.entries, 3, generator)
        shown = lines[torch.arange(batch_size)[:, None], chosen]
        empty = end[:, 0]
        context = torch.cat([lines.flatten(1), empty, shown[:, :2].flatten(1)[:, :-1]], dim=1)
        question, answer = shown[:, 2, : -self.digits - 1], shown[:, 2, -self.digits - 1 : -1]
        return arrange(context, question, answer, self.order, to_bytes("\n\n"))

    def words(self, tokens: torch.Tensor) -> str:
        """One sequence to read."""
        return read_bytes(tokens)
