"""What a task hands to a model, and how an answer is scored."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, NamedTuple, Self

import torch

IGNORED = -100
"""Target value of a position that is not scored (the default of torch's cross entropy)."""

HELD_OUT_SEED = 1_000_003
"""Seed of the batches that models are tested on; training runs use small ones."""


class Batch(NamedTuple):
    """``inputs`` and ``targets``, both int64 of shape (batch, length).

    Aligned: the output at position t is scored against ``targets[:, t]``. Language-modelling
    targets are therefore already shifted. Positions with target ``IGNORED`` are not scored.

    Tasks that ask for one label per sequence have targets of shape (batch, 1), as their models
    have one output; inputs that are real numbers are float32 of shape (batch, length, channels).
    """

    inputs: torch.Tensor
    targets: torch.Tensor


def at_least(value: int, minimum: int, name: str) -> None:
    """Raise ValueError that names an argument which is too small."""
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def distinct(rows: int, choices: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """(rows, count) integers below ``choices``, no two equal within a row, in random order."""
    return torch.rand(rows, choices, generator=generator).topk(count).indices


def accuracy(logits: torch.Tensor, batch: Batch) -> dict[str, float]:
    """Share of scored tokens, and of whole sequences, that the most likely token gets right.

    logits: (batch, length, vocab_size). A sequence is right if each of its scored tokens is;
    sequences without a scored token are left out. Returns ``{"token_accuracy",
    "sequence_accuracy"}``, NaN where nothing is scored.
    """
    expected = (*batch.targets.shape,)
    if logits.dim() != 3 or tuple(logits.shape[:2]) != expected:
        raise ValueError(
            f"logits must have shape (batch, length, vocab_size) with (batch, length) = {expected}"
            f", got {tuple(logits.shape)}"
        )
    shares = shares_right(logits.argmax(dim=-1), batch)
    return {name: shares[name] for name in ("token_accuracy", "sequence_accuracy")}


def shares_right(predicted: torch.Tensor, batch: Batch) -> dict[str, float]:
    """Share of scored tokens, of strings and of whole sequences that are right.

    predicted: the most likely tokens, (batch, length). A string is a run of scored positions next
    to each other: one answer. As long as all is right, what a model is given is what it would have
    said; a string is thus right if and only if the model, asked to go on by itself, says it.
    Returns ``{"token_accuracy", "string_accuracy", "sequence_accuracy"}``, NaN where nothing is
    scored.
    """
    scored = batch.targets != IGNORED
    right = predicted == batch.targets
    starts = scored.clone()
    starts[:, 1:] &= ~scored[:, :-1]
    run = starts.flatten().cumsum(0)[scored.flatten()] - 1  # number of each scored token's string
    wrong = torch.bincount(run, ~right[scored], minlength=int(starts.sum()))
    whole = (right | ~scored).all(dim=1)[scored.any(dim=1)]
    return {
        "token_accuracy": right[scored].double().mean().item(),
        "string_accuracy": (wrong == 0).double().mean().item(),
        "sequence_accuracy": whole.double().mean().item(),
    }


class Scored:
    """What tasks share that draw their batches with ``sample(count, generator)`` and score tokens
    and sequences as right or wrong."""

    DIFFICULTY: ClassVar[tuple[str, ...]] = ()
    """The fields that make the task harder."""

    def at(self, difficulty: int) -> Self:
        """The same task at one difficulty: the value of all fields that DIFFICULTY names."""
        if not self.DIFFICULTY:
            raise ValueError(f"{type(self).__name__} has no field that makes it harder")
        return replace(self, **dict.fromkeys(self.DIFFICULTY, difficulty))

    def held_out(self, count: int) -> Batch:
        """``count`` sequences, the same at each call."""
        return self.sample(count, torch.Generator().manual_seed(HELD_OUT_SEED))

    def score(self, logits: torch.Tensor, batch: Batch) -> dict[str, float]:
        """Token and whole-sequence accuracy; logits: (batch, length, vocab_size)."""
        return accuracy(logits, batch)
