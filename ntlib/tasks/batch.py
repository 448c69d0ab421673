"""What a task hands to a model, and how an answer is scored."""

from __future__ import annotations

from typing import NamedTuple

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
    scored = batch.targets != IGNORED
    right = logits.argmax(dim=-1) == batch.targets
    whole = (right | ~scored).all(dim=1)[scored.any(dim=1)]
    return {
        "token_accuracy": right[scored].double().mean().item(),
        "sequence_accuracy": whole.double().mean().item(),
    }


class Scored:
    """What tasks share that draw their batches with ``sample(count, generator)`` and score tokens
    and sequences as right or wrong."""

    def held_out(self, count: int) -> Batch:
        """``count`` sequences, the same at each call."""
        return self.sample(count, torch.Generator().manual_seed(HELD_OUT_SEED))

    def score(self, logits: torch.Tensor, batch: Batch) -> dict[str, float]:
        """Token and whole-sequence accuracy; logits: (batch, length, vocab_size)."""
        return accuracy(logits, batch)
