"""Tasks that need a running state: parity, counting, and the composition of permutations.

Each is a seeded generator of batches, drawn as one example in its docstring. Every position is
scored, so that a sequence counts as right (``sequence_accuracy``) only if the state was right all
the way. Draw longer sequences with ``dataclasses.replace(task, length=...)``: a model that has
learnt the state machine, and not the sequences, keeps its score.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations

import torch

from ntlib.tasks.batch import Batch, Scored, at_least


@dataclass(frozen=True)
class Counting(Scored):
    """How many ones so far, modulo m; with m = 2 it is parity.

    Drawn with modulus 3 and length 7:

        inputs    1 0 1 0 0 1 0
        targets   1 1 2 2 2 0 0

    >>> task = Counting(modulus=3, length=7)
    >>> batch = task.sample(1, torch.Generator().manual_seed(19))
    >>> batch.inputs.tolist()
    [[1, 0, 1, 0, 0, 1, 0]]
    >>> batch.targets.tolist()
    [[1, 1, 2, 2, 2, 0, 0]]
    """

    modulus: int = 2
    """States of the counter; 2 asks for the parity of the ones."""
    length: int = 32
    """Bits in a sequence."""

    DIFFICULTY = ("length",)

    def __post_init__(self) -> None:
        at_least(self.modulus, 2, "modulus")
        at_least(self.length, 1, "length")

    @property
    def vocab_size(self) -> int:
        """Bits as inputs, states as outputs."""
        return self.modulus

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw (batch, length) fair bits."""
        at_least(batch_size, 1, "batch_size")
        bits = torch.randint(2, (batch_size, self.length), generator=generator)
        return Batch(bits, bits.cumsum(1) % self.modulus)


@dataclass(frozen=True)
class Composition(Scored):
    """The word problem of a group of permutations (Merrill et al. 2024, "The Illusion of State").

    Each token is an element of the group; the target is the product of all elements so far, the
    newest one applied last. S5 and A5 are the smallest of their kinds that are not solvable: their
    word problem is complete for the class NC1, that of S3 lies in TC0. Elements are numbered in
    lexicographic order of their images, so 0 is the identity. Drawn for S3, whose elements are

        0: 012   1: 021   2: 102   3: 120   4: 201   5: 210

        inputs    1 4 1 4
        targets   1 5 3 0

    >>> task = Composition("S3", length=4)
    >>> batch = task.sample(1, torch.Generator().manual_seed(19))
    >>> batch.inputs.tolist()
    [[1, 4, 1, 4]]
    >>> batch.targets.tolist()
    [[1, 5, 3, 0]]
    """

    group: str = "S5"
    """S or A (the even ones) and how many things are permuted, 2 to 6."""
    length: int = 16
    """Elements in a sequence."""
    moves: int | None = None
    """Tokens are the elements that move at most so many things: 2 for swaps. None: all."""

    DIFFICULTY = ("length",)

    def __post_init__(self) -> None:
        products(self.group)  # refuses an unknown group right here
        at_least(self.length, 1, "length")
        if self.moves is not None:
            at_least(self.moves, 2 if self.group.startswith("S") else 3, "moves")

    @property
    def vocab_size(self) -> int:
        """Elements of the group."""
        return len(products(self.group))

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw (batch, length) of the allowed elements, uniform."""
        at_least(batch_size, 1, "batch_size")
        allowed, shape = moving_at_most(self.group, self.moves), (batch_size, self.length)
        inputs = allowed[torch.randint(len(allowed), shape, generator=generator)]
        table, running = products(self.group), [inputs[:, 0]]
        for element in inputs[:, 1:].unbind(1):
            running.append(table[element, running[-1]])
        return Batch(inputs, torch.stack(running, dim=1))


@cache
def products(group: str) -> torch.Tensor:
    """(order, order) table of a group: entry [g, h] is the element "first h, then g"."""
    kind, degree = group[:1], group[1:]
    if kind not in ("S", "A") or degree not in tuple("23456"):
        raise ValueError(f"group must be S or A followed by 2 to 6, such as 'S5', got {group!r}")
    number = {p: i for i, p in enumerate(elements(group))}
    return torch.tensor([[number[tuple(g[i] for i in h)] for h in number] for g in number])


def elements(group: str) -> list[tuple[int, ...]]:
    """The permutations of a group in the order of their numbers; p[i] is where i goes."""
    everything = permutations(range(int(group[1:])))
    return [p for p in everything if group.startswith("S") or _is_even(p)]


@cache
def moving_at_most(group: str, count: int | None) -> torch.Tensor:
    """Numbers of the elements that leave all but `count` things in place; None: all elements."""
    moved = [sum(i != place for i, place in enumerate(p)) for p in elements(group)]
    return torch.tensor([i for i, n in enumerate(moved) if count is None or n <= count])


def _is_even(p: tuple[int, ...]) -> bool:
    inversions = sum(p[i] > p[j] for j in range(len(p)) for i in range(j))
    return inversions % 2 == 0
