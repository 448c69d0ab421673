"""The training loop of the whole book: one device, plain PyTorch, resumable to the bit.

AdamW (1711.05101) with warm-up and cosine decay (1608.03983), gradient clipping, and weight decay
on weight matrices only. All randomness comes from one generator per run, so that neither threads
nor other runs can change a result.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from ntlib.tasks.batch import IGNORED, Batch, accuracy


class Task(Protocol):
    """Anything that yields batches: ntlib.tasks.text.Text and the synthetic tasks."""

    vocab_size: int

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch: ...

    def held_out(self, count: int) -> Batch: ...


@dataclass(frozen=True)
class TrainConfig:
    """One run's optimisation; raises ValueError for values that cannot train."""

    steps: int  # optimiser steps
    batch_size: int  # sequences per step
    lr: float  # peak learning rate, the one thing tuned per architecture
    warmup: float = 0.1  # share of the steps in which the rate rises linearly
    final_lr: float = 0.1  # rate after the cosine, as a share of the peak
    weight_decay: float = 0.1  # of matrices; vectors (norms, gates) are not decayed
    betas: tuple[float, float] = (0.9, 0.95)  # the short memory common for language models
    clip: float = 1.0  # largest norm of the gradient
    eval_every: int = 50  # steps between rows of the result
    held_out: int = 64  # sequences each row is measured on
    seed: int = 0  # weights and batches

    def __post_init__(self):
        for name in ("steps", "batch_size", "eval_every", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup", "final_lr"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share in [0, 1], got {getattr(self, name)}")

    def rate(self, step: int) -> float:
        """Learning rate of step 0 ... steps - 1."""
        warmup = self.warmup * self.steps
        if step < warmup:
            return self.lr * (step + 1) / warmup
        done = (step - warmup) / max(self.steps - warmup, 1)
        return self.lr * (
            self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
        )


def train(
    model: nn.Module,
    task: Task,
    config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    progress: bool = False,
) -> list[dict[str, float]]:
    """Train `model` in place; one row per `eval_every` steps: step, tokens, train_loss, loss,
    token_ and sequence_accuracy.

    `model` maps tokens to (logits, states). Losses are nats per scored token, accuracies those of
    the held-out batch. With `checkpoint`, progress is kept in that file at every row, and a later
    call continues from it to the same result.
    """
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = make_optimizer(model, config)
    held_out, rows, first = task.held_out(config.held_out), [], 0
    if checkpoint is not None and checkpoint.exists():
        rows, first = _restore(checkpoint, config, model, optimizer, generator)
    model.train()
    recent = []
    for step in tqdm(
        range(first, config.steps), initial=first, total=config.steps, disable=not progress
    ):
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        batch = task.sample(config.batch_size, generator)
        loss = batch_loss(model(batch.inputs)[0], batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        recent.append(loss.detach())
        if (step + 1) % config.eval_every == 0 or step + 1 == config.steps:
            rows.append({"step": step + 1, "tokens": (step + 1) * batch.inputs.numel()})
            rows[-1] |= {"train_loss": torch.stack(recent).mean().item()} | evaluate(
                model, held_out
            )
            recent = []
            if checkpoint is not None:
                _keep(checkpoint, config, model, optimizer, generator, rows)
    return rows


def batch_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean cross entropy of the scored positions, in nats; computed in float32."""
    return F.cross_entropy(
        logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=IGNORED
    )


@torch.no_grad()
def evaluate(model: nn.Module, batch: Batch, chunk: int = 32) -> dict[str, float]:
    """loss, token_accuracy and sequence_accuracy on a batch; `chunk` sequences at a time."""
    model.eval()
    parts = zip(batch.inputs.split(chunk), batch.targets.split(chunk), strict=True)
    logits = torch.cat([model(inputs)[0] for inputs, _ in parts])
    model.train()
    return {"loss": batch_loss(logits, batch).item()} | accuracy(logits, batch)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays the matrices of linear maps and embeddings only.

    Not decayed: vectors, and what a mixer keeps as a matrix although it is none (decay rates of
    many heads, say); the latter are not called a weight.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() >= 2 and name.rpartition(".")[2].startswith("weight")
        (decayed if is_matrix else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def _keep(path, config, model, optimizer, generator, rows):
    parts = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
    }
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as work:
        torch.save(parts | {"config": repr(config), "rows": rows}, work)
    Path(work.name).replace(
        path
    )  # a killed run leaves the last whole checkpoint, never half of one


def _restore(path, config, model, optimizer, generator):
    kept = torch.load(path, weights_only=True)
    if kept["config"] != repr(config):
        raise ValueError(
            f"checkpoint {path} belongs to another run: {kept['config']}; "
            "delete it or choose another path"
        )
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    generator.set_state(kept["generator"])
    return kept["rows"], kept["rows"][-1]["step"]
