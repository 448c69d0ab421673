"""Recall of values by keys that come again and again, among noise, or that are motifs of several
tokens: the recall tasks of MAD (Poli et al. 2403.17844, App. B)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations
from math import perm

import torch
from torch.nn.functional import one_hot

from ntlib.tasks.batch import HELD_OUT_SEED, IGNORED, Batch, Scored, at_least

MOST_KEYS = 100_000  # they are listed


@dataclass(frozen=True)
class MotifRecall(Scored):
    """Say the value of every key that was seen before; each key keeps its value in a sequence.

    Slots hold one of the sequence's pairs, a key and its value, or as many tokens of noise. The
    last slot always asks for a key that was seen. Drawn with three keys (a to c), three values (A
    to C) and noise (~); with single tokens, and with motifs of up to two:

        inputs    a A b B a A ~ ~ b B ~ ~ a A a
        targets   . . . . A . . . B . . . A . A

        inputs    . . b c A b c A b c A b C b C b c
        targets   . . . . . . A . . A . . . C . . A

    Departures from the published code: a sequence has `pairs` keys, where there a fresh one may
    always come; all scored tokens are trained on and nothing else.

    >>> task = MotifRecall(keys=3, values=3, noise_tokens=1, length=15, pairs=2, noise=0.3)
    >>> batch = task.sample(1, torch.Generator().manual_seed(1))
    >>> print(task.words(batch.inputs[0]))
    a A b B a A ~ ~ b B ~ ~ a A a
    >>> print(task.words(batch.targets[0]))
    . . . . A . . . B . . . A . A
    """

    keys: int = 8
    """Tokens that make keys; half of the paper's vocabulary of 16."""
    values: int = 8
    """Tokens that make values."""
    noise_tokens: int = 0
    """Tokens that make noise; 16 in the paper's noisy recall."""
    length: int = 128
    """Positions in a sequence; the paper's value."""
    pairs: int = 8
    """Different keys in a sequence."""
    key_size: int = 1
    """Most tokens of a key, all different; 3 in the paper's fuzzy recall."""
    value_size: int = 1
    """Most tokens of a value, all different; 3 in the paper's fuzzy recall."""
    shortest_key: int = 1
    """Fewest tokens of a key. Short ones may begin longer ones, and nobody can tell which it is;
    models are therefore tested on keys of ``key_size``, as in the paper."""
    noise: float = 0.0
    """Share of slots that hold noise; 0.2 in the paper's noisy recall."""

    DIFFICULTY = ("pairs",)
    PAD = 0

    def __post_init__(self) -> None:
        for name in ("pairs", "key_size", "value_size", "shortest_key"):
            at_least(getattr(self, name), 1, name)
        at_least(self.keys, self.key_size, "keys (key_size)")
        at_least(self.values, self.value_size, "values (value_size)")
        at_least(self.key_size, self.shortest_key, "key_size (shortest_key)")
        possible = perm(self.keys, self.key_size)
        if not self.pairs <= possible <= MOST_KEYS:
            raise ValueError(
                f"keys and key_size must make pairs = {self.pairs} to {MOST_KEYS} different keys, "
                f"got {self.keys} and {self.key_size}: {possible}"
            )
        at_least(self.length, 2 * self._slot - 1, "length (two slots, without the last token)")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise must be in [0, 1), got {self.noise}")
        if self.noise:
            at_least(self.noise_tokens, 1, "noise_tokens (with noise)")

    @property
    def vocab_size(self) -> int:
        """Padding, keys, values, noise."""
        return 1 + self.keys + self.values + self.noise_tokens

    @property
    def _slot(self) -> int:
        return self.key_size + self.value_size

    def held_out(self, count: int) -> Batch:
        """``count`` sequences with keys of ``key_size``, the same at each call."""
        task = replace(self, shortest_key=self.key_size)
        return task.sample(count, torch.Generator().manual_seed(HELD_OUT_SEED))

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw (batch, length) sequences, as many slots as fit, padded in front."""
        at_least(batch_size, 1, "batch_size")
        pairs = self._pairs(batch_size, generator)
        most = (self.length + 1) // (self.shortest_key + 1)
        pair = torch.randint(self.pairs, (batch_size, most), generator=generator)
        noisy = torch.rand(batch_size, most, generator=generator) < self.noise
        noisy[:, 0] = False
        slots = pairs.gather(1, pair[..., None].expand(-1, -1, self._slot))
        sizes = (slots != self.PAD).sum(dim=2)
        fits = sizes.cumsum(dim=1) <= self.length + 1 - self._slot
        kept = one_hot(pair, self.pairs) * (fits & ~noisy)[..., None]
        seen = (kept.cumsum(dim=1) - kept).gather(2, pair[..., None]) > 0
        # the last slot, behind those that fit, asks for one of them
        draw = torch.rand(batch_size, most, generator=generator) * (fits & ~noisy)
        last = slots.gather(1, draw.argmax(dim=1)[:, None, None].expand(-1, 1, self._slot))
        slots = self._with_noise(slots, noisy, generator) * fits[..., None]
        scored = seen & ~noisy[..., None] & (torch.arange(self._slot) >= self.key_size)
        scored = torch.cat([scored, (torch.arange(self._slot) >= self.key_size).expand_as(last)], 1)
        return self._packed(torch.cat([slots, last], dim=1), scored)

    def words(self, tokens: torch.Tensor) -> str:
        """One sequence to read: keys a, b ..., values A, B ..., ~ for noise, a dot for padding or
        not scored."""
        keys = [chr(ord("a") + i % 26) for i in range(self.keys)]
        values = [chr(ord("A") + i % 26) for i in range(self.values)]
        names = [".", *keys, *values, *"~" * self.noise_tokens]
        return " ".join(names[max(token, self.PAD)] for token in tokens.tolist())

    def _pairs(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """(count, pairs, key_size + value_size) keys, no two equal in a row, each with a value."""
        keys, weights = _motifs(self.keys, self.shortest_key, self.key_size)
        chosen = torch.multinomial(weights.expand(count, -1), self.pairs, generator=generator)
        values, weights = _motifs(self.values, 1, self.value_size)
        drawn = torch.multinomial(weights, count * self.pairs, True, generator=generator)
        value = values[drawn.view(count, self.pairs)]
        value = torch.where(value > 0, value + self.keys, self.PAD)
        return torch.cat([keys[chosen], value], dim=2)

    def _with_noise(
        self, slots: torch.Tensor, noisy: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        if not self.noise:
            return slots
        first = 1 + self.keys + self.values
        noise = torch.randint(first, self.vocab_size, slots.shape, generator=generator)
        return torch.where(noisy[..., None] & (slots != self.PAD), noise, slots)

    def _packed(self, slots: torch.Tensor, scored: torch.Tensor) -> Batch:
        """Slots without their empty places, one behind the other, ending at the last position."""
        tokens, scored = slots.flatten(1), scored.flatten(1)
        there = tokens != self.PAD
        place = self.length + there.cumsum(dim=1) - there.sum(dim=1, keepdim=True)
        place = torch.where(there, place, self.length + 1)  # a column that is cut off
        sequence = torch.full((len(tokens), self.length + 2), self.PAD).scatter(1, place, tokens)
        asked = torch.zeros_like(sequence, dtype=torch.bool).scatter(1, place, scored & there)
        targets = torch.where(asked, sequence, IGNORED)
        return Batch(sequence[:, :-2], targets[:, 1:-1])


@cache
def _motifs(choices: int, shortest: int, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(motifs, longest) all motifs of different tokens 1 ... choices, 0 behind short ones; and
    (motifs,) their weights, with which every size is drawn alike."""
    sizes = range(shortest, longest + 1)
    found = [
        (*m, *[0] * (longest - n)) for n in sizes for m in permutations(range(1, choices + 1), n)
    ]
    counts = torch.tensor([perm(choices, n) for n in sizes])
    return torch.tensor(found), (1 / counts).repeat_interleave(counts)


IN_CONTEXT_RECALL = MotifRecall()
NOISY_RECALL = MotifRecall(noise_tokens=16, noise=0.2)
FUZZY_RECALL = MotifRecall(keys=7, key_size=3, value_size=3)
"""MAD's settings; its vocabularies of 16, 32 and 16, and padding."""
