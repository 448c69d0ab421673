"""What a trained model does, beyond its mean loss: loss by position, score by length, reach.

Models are anything that maps tokens (batch, length) to (logits, states).
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ntlib.tasks.batch import Batch, Scored, shares_right
from ntlib.training import Task, evaluate


@torch.no_grad()
def loss_by_position(model: nn.Module, batch: Batch, chunk: int = 32) -> Float[Tensor, " length"]:
    """Mean loss of each position over the sequences of a batch, in nats; all must be scored."""
    parts = zip(batch.inputs.split(chunk), batch.targets.split(chunk), strict=True)
    losses = [
        F.cross_entropy(model(inputs)[0].mT.float(), targets, reduction="none")
        for inputs, targets in parts
    ]
    return torch.cat(losses).mean(0)


def score_by_length(
    model: nn.Module, task: Task, lengths: Sequence[int], count: int = 256
) -> pd.DataFrame:
    """Loss and accuracies on `count` held-out sequences of each length; one row per length."""
    rows = [
        {"length": n} | evaluate(model, replace(task, length=n).held_out(count), chunk=64)
        for n in lengths
    ]
    return pd.DataFrame(rows)


@torch.no_grad()
def score_by_difficulty(
    model: nn.Module, task: Scored, difficulties: Sequence[int], count: int = 256, chunk: int = 32
) -> pd.DataFrame:
    """Shares of tokens, strings and sequences that are right on `count` held-out sequences of
    `task.at` each difficulty; one row per difficulty.

    Only predictions are kept, so that long sequences over large vocabularies fit into memory.
    """
    rows = []
    for difficulty in difficulties:
        batch = task.at(difficulty).held_out(count)
        predicted = [model(inputs)[0].argmax(-1) for inputs in batch.inputs.split(chunk)]
        rows.append({"difficulty": difficulty} | shares_right(torch.cat(predicted), batch))
    return pd.DataFrame(rows)


def reach(model: nn.Module, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, " length"]:
    """How strongly the last output depends on the token n steps back, for n = 0, 1, ...

    The norm of the derivative of a random projection of the last logits by each token's embedding,
    mean over the batch. The model must hold exactly one `nn.Embedding`.
    """
    (embedding,) = (m for m in model.modules() if isinstance(m, nn.Embedding))
    seen = []
    hook = embedding.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = model(tokens)[0][:, -1]
    hook.remove()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((logits * direction).sum(), seen)
    return gradient.norm(dim=-1).mean(0).flip(0)
