"""Models of equal perplexity, and what they can do with their context without further training.

Every architecture is trained on the default corpus, or on it and drills in copying, at a constant
rate; its weights are those of the
step at which its held-out loss was nearest to a common target. The target is the loss that every
seed of the Transformer reaches. Then the same weights are asked to predict what stood in the
context before, to copy, and to retrieve; nothing is trained on these tasks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ntlib import experiments, language
from ntlib.experiments import Run
from ntlib.tasks import IGNORED, Batch, DrilledText, Needle, PhoneBook, load_corpus
from ntlib.tasks.batch import HELD_OUT_SEED

TOLERANCE = 0.01  # nats per byte: one per cent of perplexity
LONGEST = 8  # n-grams are told apart up to so many bytes
SNIPPET, LETTERS = 30, 24  # bytes that are repeated, fewer than the longest period of a drill
NEEDLE = Needle(haystack=64)  # 100 bytes; models were trained on 128
PHONE_BOOK = PhoneBook(entries=6, digits=4)  # 99 bytes

# May take twice the profile's steps to reach the target, as they learn slowly; with drills all may.
SLOW = (
    "Transformer",
    "Transformer (no positions)",
    "Local attention",
    "Linear attention",
    "RetNet",
    "S4D",
    "Mega-chunk",
    "Yan",
)


def constant_run(
    architecture: str, lr: float, profile_name: str = "book", drilled: bool = False
) -> Run:
    """`language.text_run` at a constant rate after 50 steps of warm-up, measured every 10 steps; on
    the default corpus, or with `drilled` on DrilledText, whose held-out part is the corpus too."""
    run = language.text_run(architecture, lr, profile_name)
    steps = run.train.steps * (2 if drilled or architecture in SLOW else 1)
    warmup = min(50 / steps, 0.5)
    train = replace(
        run.train, steps=steps, warmup=warmup, final_lr=1.0, eval_every=10, held_out=128
    )
    task = DrilledText(run.task.length) if drilled else run.task
    return replace(run, task=task, train=train)


def target_loss(curves: pd.DataFrame) -> float:
    """The held-out loss that every seed of the Transformer reaches, in rows of run_grid."""
    transformer = curves[curves["architecture"] == "Transformer"]
    return float(transformer.groupby("seed")["loss"].min().max())


def stopped(runs: Sequence[Run], curves: pd.DataFrame, target: float) -> list[Run]:
    """For each run that comes within TOLERANCE of the target the same run, ended at the step at
    which it was nearest: the same batches at the same rates."""
    found = []
    for run in runs:
        warmup = run.train.warmup * run.train.steps
        own = (curves["architecture"] == run.architecture) & (curves["seed"] == run.train.seed)
        rows = curves[own & (curves["step"] >= warmup)]
        distance = (rows["loss"] - target).abs()
        if distance.min() > TOLERANCE:
            continue
        step = int(rows["step"][distance.idxmin()])
        train = replace(run.train, steps=step, warmup=min(warmup / step, 1.0), eval_every=step)
        found.append(replace(run, train=train))
    return found


def seen_before(tokens: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """For each token the length of the longest string that ends with it and stands in the same
    sequence before: 0 for a token that is new, 3 for one that completes a trigram seen. Both may
    overlap."""
    batch, length = tokens.shape
    longest = torch.zeros_like(tokens)
    common = torch.zeros(batch, length + 1, dtype=tokens.dtype)  # with every earlier end, one off
    for t in range(1, length):
        same = tokens[:, :t] == tokens[:, t : t + 1]
        common[:, 1 : t + 1] = torch.where(same, common[:, :t] + 1, 0)
        longest[:, t] = common[:, 1 : t + 1].amax(dim=1)
    return longest


def repeated_names(tokens: Int[Tensor, "batch length"], shown: int = 2) -> Bool[Tensor, "..."]:
    """Bytes of identifiers that stand in the same sequence before, as wholes: all but the first
    `shown` bytes of each, which say which one it is."""
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, line in enumerate(tokens.tolist()):
        seen = set()
        for match in re.finditer(rb"[A-Za-z_][A-Za-z0-9_]*", bytes(line)):
            if match[0] in seen:
                mask[row, match.start() + shown : match.end()] = True
            seen.add(match[0])
    return mask


@torch.no_grad()
def losses(model: nn.Module, batch: Batch, chunk: int = 32) -> Float[Tensor, "batch length"]:
    """Nats of each token."""
    parts = zip(batch.inputs.split(chunk), batch.targets.split(chunk), strict=True)
    return torch.cat(
        [F.cross_entropy(model(x)[0].mT.float(), y, reduction="none") for x, y in parts]
    )


def slices(model: nn.Module, batch: Batch) -> dict[str, tuple[float, int]]:
    """{slice: (mean loss, tokens)}: all; by the length of the string, already seen, that the token
    completes ("seen 0" ... "seen 8": eight or more); and the rest of repeated identifiers."""
    loss = losses(model, batch)
    tokens = torch.cat([batch.inputs[:, :1], batch.targets], dim=1)
    longest = seen_before(tokens)[:, 1:].clamp(max=LONGEST)
    masks = {"all": torch.ones_like(longest, dtype=torch.bool)}
    masks |= {f"seen {n}": longest == n for n in range(LONGEST + 1)}
    masks["identifiers"] = repeated_names(tokens)[:, 1:]
    return {name: (loss[mask].mean().item(), int(mask.sum())) for name, mask in masks.items()}


@torch.no_grad()
def copies(model: nn.Module, snippets: Int[Tensor, "count length"]) -> dict[str, float]:
    """Loss and accuracy on the first and on the second of two copies of each snippet, between which
    a line ends; without the first byte, which nothing announces."""
    end = torch.full_like(snippets[:, :1], ord("\n"))
    logits = model(torch.cat([snippets, end, snippets[:, :-1]], dim=1))[0]
    scores, inside = {}, snippets.shape[1] - 1
    for name, start in (("first", 0), ("second", inside + 2)):
        part = logits[:, start : start + inside]
        loss = F.cross_entropy(part.mT.float(), snippets[:, 1:])
        right = part.argmax(-1) == snippets[:, 1:]
        scores[f"{name} loss"], scores[f"{name} accuracy"] = (
            loss.item(),
            right.double().mean().item(),
        )
    return scores


@torch.no_grad()
def digits(model: nn.Module, batch: Batch) -> dict[str, float]:
    """How a model that must name digits chooses among the ten: accuracy, and the mean log
    probability of the right one above that of chance, in nats. Chance has 0.1 and 0."""
    asked = batch.targets != IGNORED
    log_p = model(batch.inputs)[0][asked][:, ord("0") : ord("9") + 1].float().log_softmax(-1)
    right = batch.targets[asked] - ord("0")
    above = log_p.gather(1, right[:, None]).mean().item() + log(10)
    return {"accuracy": (log_p.argmax(-1) == right).double().mean().item(), "above chance": above}


def without_first(batch: Batch) -> Batch:
    """The batch without the first scored token of each sequence (a phone number's first digit is 6
    to 9, which a model can guess)."""
    asked = batch.targets != IGNORED
    first = asked & (asked.cumsum(dim=1) == 1)
    return Batch(batch.inputs, batch.targets.masked_fill(first, IGNORED))


def abilities(model: nn.Module, count: int = 256) -> dict[str, tuple[float, int]]:
    """{"test: measure": (value, tokens)} of a model of bytes: the copy of `count` snippets of the
    test split and of random letters, a needle's digits, and numbers out of a phone book."""
    corpus, letters = load_corpus(), torch.Generator().manual_seed(HELD_OUT_SEED)
    snippets = {
        "copy of text": corpus.windows("test", SNIPPET, count).inputs,
        "copy of letters": torch.randint(
            ord("a"), ord("z") + 1, (count, LETTERS), generator=letters
        ),
    }
    questions = {
        "needle": NEEDLE.held_out(count),
        "phone book": without_first(PHONE_BOOK.held_out(count)),
    }
    found = {}
    for name, strings in snippets.items():
        tokens = strings[:, 1:].numel()
        found |= {f"{name}: {k}": (v, tokens) for k, v in copies(model, strings).items()}
    for name, batch in questions.items():
        tokens = int((batch.targets != IGNORED).sum())
        found |= {f"{name}: {k}": (v, tokens) for k, v in digits(model, batch).items()}
    return found


COLUMNS = {
    "architecture": "key of ntlib.models.presets.small",
    "lr": "peak learning rate",
    "seed": "of weights and batches",
    "step": "optimiser steps done",
    "target": "held-out loss at which models are compared, nats per byte",
    "at": "end: of training; target: at the step at which the loss was nearest to it",
    "kind": "curve: while training; slice: see evaluation_language.slices; ability: see abilities",
    "measure": "what the value is: a loss in nats per token, or a share of tokens that are right",
    "value": "of the measure",
    "tokens": "that it is the mean of",
}


def examine(
    runs: Sequence[Run], target: float, at: str, checkpoints: Path, windows: int = 512
) -> pd.DataFrame:
    """Slices, on `windows` windows of the test split, and abilities of the trained models of
    `runs`; rows: see COLUMNS."""
    rows = []
    for run in runs:
        model = experiments.trained(run, checkpoints)
        batch = run.task.windows("test", windows)
        fixed = (run.architecture, run.train.lr, run.train.seed, run.train.steps, target, at)
        for kind, found in (("slice", slices(model, batch)), ("ability", abilities(model))):
            rows += [(*fixed, kind, name, *scores) for name, scores in found.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def curve_rows(runs: Sequence[Run], curves: pd.DataFrame, target: float) -> pd.DataFrame:
    """Every fifth row of the training curves, and the last of each, in COLUMNS."""
    last = curves.groupby(["architecture", "seed"])["step"].transform("max")
    rows = curves[(curves["step"] % 50 == 0) | (curves["step"] == last)]
    tokens = {run.architecture: run.train.held_out * run.task.length for run in runs}
    rows = rows.assign(
        target=target,
        at="end",
        kind="curve",
        measure="held-out loss",
        value=rows["loss"],
        tokens=rows["architecture"].map(tokens),
    )
    return rows[list(COLUMNS)]


def wide(frame: pd.DataFrame, kind: str, at: str = "target") -> pd.DataFrame:
    """Values of one kind in a record: a column per measure, a row per architecture, seed, step."""
    part = frame[(frame["kind"] == kind) & (frame["at"] == at)]
    return part.pivot(
        index=["architecture", "seed", "step"], columns="measure", values="value"
    ).reset_index()


TESTS = ("copy of text", "copy of letters", "needle", "phone book")


def graded(frame: pd.DataFrame, at: str = "target") -> pd.DataFrame:
    """Abilities in a record as gains, a row per model: accuracy of TESTS over that on the first
    copy, or over a chance of 0.1; under "... (nats)" the same in log probability."""
    found = wide(frame, "ability", at)
    for name in TESTS[:2]:
        first, second = (
            {m: found[f"{name}: {copy} {m}"] for m in ("loss", "accuracy")}
            for copy in ("first", "second")
        )
        found[name] = second["accuracy"] - first["accuracy"]
        found[f"{name} (nats)"] = first["loss"] - second["loss"]
    for name in TESTS[2:]:
        found[name] = found[f"{name}: accuracy"] - 0.1
        found[f"{name} (nats)"] = found[f"{name}: above chance"]
    return found


def hidden_gap(slices: pd.DataFrame, than: str = "Transformer") -> pd.DataFrame:
    """How many nats per byte a model loses against `than` on each slice "seen n", weighted by the
    slice's share of bytes, mean over seeds: rows are architectures, and a row sums to the
    difference in loss over all bytes."""
    parts = slices[slices["measure"].str.startswith("seen")].copy()
    total = parts.groupby(["architecture", "seed"])["tokens"].transform("sum")
    parts["nats"] = parts["value"] * parts["tokens"] / total
    table = parts.groupby(["architecture", "measure"])["nats"].mean().unstack("measure")
    return table - table.loc[than]


def leads(table: pd.DataFrame, others: Sequence[str], than: str = "Transformer") -> Mapping:
    """Lead of `than` over the mean and over the best of `others`, per column of a table of
    accuracies by architecture: {column: (over the mean, over the best)}."""
    present = table.loc[[name for name in others if name in table.index]]
    return {
        name: (
            float(table.loc[than, name] - present[name].mean()),
            float(table.loc[than, name] - present[name].max()),
        )
        for name in table
    }
