"""What small models of every architecture can remember: recall against the size of the state,
copying beyond the trained length, and lookups whose question comes before or after.

All have two layers (Mamba and Mamba-2 three) and equal parameters. The learning rate of each is the
best of five on recall, for copying on copying; see ntlib.evaluation_records. What the same models
know of language, and what that is worth when they are asked to copy, is ntlib.evaluation_language.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import exp, log, nan
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ntlib import cost_model, experiments, probes
from ntlib.experiments import Run
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.linear_attention import LinearAttentionConfig
from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.mamba2 import Mamba2Config
from ntlib.mixers.protocol import MixerConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.models import presets, rwkv_sizes
from ntlib.models.protocol import Config
from ntlib.profiles import load_profile
from ntlib.tasks import IGNORED, Copying, GradedRecall, NGramLookup
from ntlib.training import Task, TrainConfig, evaluate

ARCHITECTURES = (
    "Transformer",
    "Transformer (no positions)",
    "Local attention",
    "Linear attention",
    "RetNet",
    "RWKV-4",
    "RWKV-6",
    "RWKV-7",
    "S4D",
    "Mamba",
    "Mamba-2",
    "Mega-chunk",
    "Yan",
    "Hybrid",
)

# The knob that sizes the state, and its values beside that of the small model: from about 4 to 130
# KiB in two layers.
STATES: dict[str, tuple[str, tuple[int, ...]]] = {
    "Local attention": ("window", (8, 16, 64)),
    "Linear attention": ("heads", (8, 1)),
    "RetNet": ("heads", (8, 4, 1)),
    "RWKV-7": ("width of a head", (8, 16, 64)),
    "Mamba": ("N", (4, 16, 32)),
    "Mamba-2": ("N", (8, 16, 128)),
}
_SIZED: dict[str, Callable[[int], MixerConfig]] = {
    "Local attention": lambda window: AttentionConfig(2, window=window),
    "Linear attention": LinearAttentionConfig,
    "RetNet": RetentionConfig,
    "Mamba": lambda n: MambaConfig(d_state=n),
    "Mamba-2": lambda n: Mamba2Config(d_state=n, head_dim=32),
}

RECALL = GradedRecall()
RECALL_TESTS = (
    *((pairs, RECALL.stretch * pairs) for pairs in (4, 8, 12, 15)),
    *((max(RECALL.sizes), RECALL.length * 2**e) for e in range(1, 5)),
)
"""(pairs, length): as trained, and all keys that there are; then 12 pairs at up to 16 times the
length."""
COPYING = Copying(min_length=1, max_length=16)
COPYING_TESTS = (4, 8, 12, 16, 20, 24, 32, 48, 64, 128, 256)
ORDERS = ("before", "after", "twice")
LOOKUP = NGramLookup(key=1, answer=2, min_length=8, max_length=16)
# For each the smallest and the largest state; those without a size are as they come.
LOOKED_UP: tuple[tuple[str, int | None], ...] = (
    ("Transformer", None),
    ("RWKV-7", 8),
    ("RWKV-7", 64),
    ("Mamba", 4),
    ("Mamba", 32),
    ("Hybrid", None),
)


def fitted(mixer: MixerConfig, vocab_size: int) -> Config:
    """`mixer` in the small Transformer's skeleton of two layers, with the feed-forward layer that
    makes the parameters equal; see ntlib.models.presets.small."""
    transformer = presets.small("Transformer", vocab_size)
    model = replace(transformer, mixer=mixer)
    surplus = cost_model.parameters(model) - cost_model.parameters(transformer)
    per_unit = 3 * model.d_model * model.n_layers  # three matrices of SwiGLU
    return replace(model, ffn_dim=model.ffn_dim - round(surplus / per_unit))


def model_of(architecture: str, size: int | None, vocab_size: int) -> Config:
    """The small model, or with `size` the one whose state is sized by the knob of STATES; all with
    equal parameters. Raises ValueError that lists the names."""
    if size is None:
        return presets.small(architecture, vocab_size)
    if architecture not in STATES:
        raise ValueError(f"architecture must be one of {', '.join(STATES)}, got {architecture!r}")
    if architecture == "RWKV-7":  # a whole model with a feed-forward layer of its own
        model = rwkv_sizes.small(architecture, vocab_size)
        return replace(model, mixer=replace(model.mixer, head_size=size))
    return fitted(_SIZED[architecture](size), vocab_size)


def recall_run(
    architecture: str, lr: float, profile_name: str = "book", size: int | None = None
) -> Run:
    """Graded recall at a profile's number of steps, 960 tokens each."""
    steps = load_profile(profile_name).graded_steps
    return _run(RECALL, architecture, size, lr, steps, batch_size=10)


def copying_run(architecture: str, lr: float, profile_name: str = "book") -> Run:
    """Copying of 1 to 16 letters at a profile's number of steps of recall, 2112 tokens each."""
    steps = load_profile(profile_name).recall_steps
    return _run(COPYING, architecture, None, lr, steps, batch_size=64)


def lookup_run(
    order: str, architecture: str, lr: float, profile_name: str = "book", size: int | None = None
) -> Run:
    """Lookup of a letter among 8 to 16 at a profile's number of steps of recall, 64 strings each.
    Equal in strings, not in tokens: "twice" has twice as many."""
    task = replace(LOOKUP, order=order)
    steps = load_profile(profile_name).recall_steps
    return _run(task, architecture, size, lr, steps, batch_size=64)


def recall_contenders() -> list[tuple[str, int | None]]:
    """(architecture, size): every architecture as it comes, and the sizes of STATES."""
    sized = [(name, size) for name, (_, sizes) in STATES.items() for size in sizes]
    return [(name, None) for name in ARCHITECTURES] + sized


@torch.no_grad()
def held_bytes(model: nn.Module, tokens: int) -> int:
    """Bytes of the state, of all layers and as it is, of one sequence after `tokens` tokens: with
    caches, and with what convolutions and token shifts keep."""
    states = model(torch.zeros(1, tokens, dtype=torch.int64))[1]
    leaves = (leaf for leaf in tree_leaves(states) if isinstance(leaf, Tensor))
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)


RECALL_COLUMNS = {
    "architecture": "key of ntlib.models.presets.small",
    "size": "of the knob in ntlib.evaluation.STATES; empty: the small model as it comes",
    "parameters": "of the model",
    "lr": "peak learning rate",
    "seed": "of weights and batches",
    "pairs": "different keys in a sequence",
    "length": "tokens of a sequence",
    "state_bytes": "held after a sequence, all layers, float32",
    "scored": "tokens asked for, in all held-out sequences",
    "loss": "nats per scored token",
    "token_accuracy": "share of them that are right",
}


def recall(runs: Sequence[Run], sizes: Sequence[int | None], checkpoints: Path) -> pd.DataFrame:
    """Test the trained models of `runs` (with these `sizes`) on RECALL_TESTS, on 2^15 tokens of
    each; rows: see RECALL_COLUMNS."""
    rows = []
    for run, size in zip(runs, sizes, strict=True):
        model = experiments.trained(run, checkpoints)
        fixed = {"architecture": run.architecture, "size": size, "parameters": _count(model)}
        fixed |= {"lr": run.train.lr, "seed": run.train.seed}
        for pairs, length in RECALL_TESTS:
            batch = run.task.sized(pairs, length).held_out(2**15 // length)
            scores = evaluate(model, batch, chunk=max(2**13 // length, 1))
            scored = int((batch.targets != IGNORED).sum())
            test = {"pairs": pairs, "length": length, "state_bytes": held_bytes(model, length - 1)}
            rows.append(fixed | test | {"scored": scored} | scores)
    return pd.DataFrame(rows)[list(RECALL_COLUMNS)]


COPYING_COLUMNS = {
    "architecture": "key of ntlib.models.presets.small",
    "size": "of the knob in ntlib.evaluation.STATES; empty: the small model as it comes",
    "lr": "peak learning rate",
    "seed": "of weights and batches",
    "length": "letters of a string; up to 16 were trained on",
    "strings": "tested",
    "token_accuracy": "share of letters, and the end, that are right, each after the right ones",
    "string_accuracy": "share of strings that are copied without a mistake",
}


def copying(
    runs: Sequence[Run], sizes: Sequence[int | None], checkpoints: Path, count: int = 128
) -> pd.DataFrame:
    """Test the trained models of `runs` (with these `sizes`) at each length of COPYING_TESTS; rows:
    see COPYING_COLUMNS."""
    frames = []
    for run, size in zip(runs, sizes, strict=True):
        model = experiments.trained(run, checkpoints)
        scores = probes.score_by_difficulty(model, run.task, COPYING_TESTS, count)
        scores = scores.rename(columns={"difficulty": "length"})
        fixed = {"architecture": run.architecture, "size": size, "lr": run.train.lr}
        frames.append(scores.assign(**fixed, seed=run.train.seed, strings=count))
    return pd.concat(frames, ignore_index=True)[list(COPYING_COLUMNS)]


LOOKUP_COLUMNS = {
    "order": "where the question stands, see ntlib.tasks.lookup.Order",
    "architecture": "key of ntlib.models.presets.small",
    "size": "of the knob in ntlib.evaluation.STATES; empty: the small model as it comes",
    "lr": "peak learning rate",
    "seed": "of weights and batches",
    "strings": "tested, of 16 letters",
    "token_accuracy": "share of letters that are right",
    "string_accuracy": "share of answers that are right",
}


def lookup(
    runs: Sequence[Run], sizes: Sequence[int | None], checkpoints: Path, count: int = 512
) -> pd.DataFrame:
    """Test the trained models of `runs` (with these `sizes`) on the longest strings; rows: see
    LOOKUP_COLUMNS."""
    frames = []
    for run, size in zip(runs, sizes, strict=True):
        model = experiments.trained(run, checkpoints)
        scores = probes.score_by_difficulty(model, run.task, (run.task.max_length,), count)
        fixed = {"order": run.task.order, "architecture": run.architecture, "size": size}
        fixed |= {"lr": run.train.lr, "seed": run.train.seed, "strings": count}
        frames.append(scores.assign(**fixed))
    return pd.concat(frames, ignore_index=True)[list(LOOKUP_COLUMNS)]


def knee(state: Iterable[float], accuracy: Iterable[float], level: float) -> float:
    """The size of state at which the accuracy first reaches `level`, straight lines in between on a
    logarithmic axis of sizes; the smallest one if all reach it, NaN if none does."""
    points = sorted(zip(state, accuracy, strict=True))
    for (left, before), (right, after) in zip(points[:1] + points, points, strict=False):
        if after >= level:
            if before >= level:
                return left
            share = (level - before) / (after - before)
            return exp((1 - share) * log(left) + share * log(right))
    return nan


def reach(length: Iterable[int], accuracy: Iterable[float], level: float) -> int:
    """Effective length: the longest one up to which every tested length has an accuracy of at least
    `level`; 0 if the shortest has not."""
    longest = 0
    for n, share in sorted(zip(length, accuracy, strict=True)):
        if share < level:
            break
        longest = n
    return longest


def _run(
    task: Task, architecture: str, size: int | None, lr: float, steps: int, batch_size: int
) -> Run:
    train = TrainConfig(steps, batch_size, lr, eval_every=max(steps // 10, 1), held_out=128)
    return Run(architecture, model_of(architecture, size, task.vocab_size), task, train)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
