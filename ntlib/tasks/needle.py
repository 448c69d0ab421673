"""A needle in a haystack: a line somewhere in real source code, asked for at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntlib.tasks.batch import HELD_OUT_SEED, Batch, Scored, at_least, distinct
from ntlib.tasks.corpus import load_corpus
from ntlib.tasks.lookup import (
    Order,
    arrange,
    arranged_length,
    check_order,
    read_bytes,
    to_bytes,
)
from ntlib.tasks.phonebook import NAMES


@dataclass(frozen=True)
class Needle(Scored):
    """A number that stands in one line, `key_Buta = 70521`, between two halves of a window of the
    default corpus; the end of the sequence is `key_Buta = `, and the digits are scored.

    Trained on windows of the training split, tested on the validation split. With several
    needles, whose names differ, one is asked for (Hsieh et al. 2404.06654, "RULER": multi-key). The
    needle cuts the text anywhere, also within a word.
    """

    haystack: int = 512
    """Bytes of source code."""
    needles: int = 1
    """Lines hidden in it; all but one distract."""
    digits: int = 5
    """Of each number."""
    depth: float | None = None
    """Share of the source code in front of the needle that is asked for; None: uniform."""
    order: Order = "after"
    """Where the question stands."""

    DIFFICULTY = ("haystack",)
    vocab_size = 256

    def __post_init__(self) -> None:
        for name in ("haystack", "needles", "digits"):
            at_least(getattr(self, name), 1, name)
        if self.needles > len(NAMES):
            raise ValueError(f"needles must be at most {len(NAMES)}, got {self.needles}")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise ValueError(f"depth must be in [0, 1] or None, got {self.depth}")
        check_order(self.order)

    @property
    def length(self) -> int:
        """Bytes in a sequence."""
        question = len("key_") + NAMES.shape[1] + len(" = ")
        context = self.haystack + self.needles * (question + self.digits + 2)
        return arranged_length(context, question, self.digits, self.order, len("\n\n"))

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw (batch, length) sequences from the training split."""
        at_least(batch_size, 1, "batch_size")
        text = load_corpus().sample("train", batch_size, self.haystack, generator).inputs
        return self._hidden(text, generator)

    def held_out(self, count: int) -> Batch:
        """``count`` windows spread over the validation split, the same at each call."""
        text = load_corpus().windows("validation", self.haystack, count).inputs
        return self._hidden(text, torch.Generator().manual_seed(HELD_OUT_SEED))

    def words(self, tokens: torch.Tensor) -> str:
        """One sequence to read."""
        return read_bytes(tokens)

    def _hidden(self, text: torch.Tensor, generator: torch.Generator) -> Batch:
        """The first needle of each row is asked for."""
        shape = (len(text), self.needles)
        numbers = torch.randint(10, (*shape, self.digits), generator=generator) + ord("0")
        names = NAMES[distinct(len(text), len(NAMES), self.needles, generator)]
        end, key, equals = (to_bytes(text).expand(*shape, -1) for text in ("\n", "key_", " = "))
        questions = torch.cat([key, names, equals], dim=2)
        places = torch.randint(self.haystack + 1, shape, generator=generator)
        if self.depth is not None:
            places[:, 0] = round(self.depth * self.haystack)
        context = _inserted(text, torch.cat([end, questions, numbers, end], dim=2), places)
        return arrange(context, questions[:, 0], numbers[:, 0], self.order, to_bytes("\n\n"))


def _inserted(text: torch.Tensor, lines: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Text (batch, length) with each of the lines (batch, count, size) in front of the character
    at its place (batch, count): (batch, length + count * size)."""
    batch, count, size = lines.shape
    places, order = places.sort(dim=1)
    lines = lines.gather(1, order[..., None].expand_as(lines))
    start = places + size * torch.arange(count)
    inside = (start[..., None] + torch.arange(size)).flatten(1)
    before = (places[:, None] <= torch.arange(text.shape[1])[:, None]).sum(dim=2)
    around = torch.arange(text.shape[1]) + size * before
    whole = text.new_empty(batch, text.shape[1] + count * size)
    return whole.scatter(1, inside, lines.flatten(1)).scatter(1, around, text)
