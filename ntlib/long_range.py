"""Long sequences with one answer, scaled down from the Long Range Arena, and copying over gaps:
every architecture in its published block, at one width and with equal parameters.

State spaces have twice the blocks: theirs end in a gated map instead of a feed-forward layer.
Mega's blocks have norms and residuals of their own. All read from the left, as the LSTM must; the
Arena's encoders read in both directions.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from ntlib import experiments
from ntlib.experiments import Run
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.lstm import LSTMConfig
from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.mega import MegaConfig
from ntlib.mixers.protocol import MixerConfig
from ntlib.mixers.s4 import S4Config
from ntlib.mixers.s4d import S4DConfig
from ntlib.mixers.s5 import S5Config
from ntlib.mixers.state_space import resample, sampled_systems
from ntlib.models.classifier import ClassifierConfig
from ntlib.models.language_model import ModelConfig
from ntlib.models.mega import MegaModelConfig
from ntlib.profiles import load_profile
from ntlib.tasks import Digits, GapCopying, ListOps, Pathfinder, Tones
from ntlib.training import Task, TrainConfig, evaluate

RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)  # the same five for all, on every tuned task

D_MODEL, HEADS = 32, 4


def _mega(**changes: Any) -> MegaConfig:
    """One size for Mega's variants; at this width h = 8 leaves room for a feed-forward layer."""
    small = MegaConfig(z_dim=16, value_dim=D_MODEL, states=8, position_bias="rotary")
    return replace(small, **changes)


# Mixer, blocks, hidden width of the feed-forward layer. State sizes and hidden widths are chosen
# so that all have S4D's parameters, 17,152 in the blocks, within 1%.
MODELS: dict[str, tuple[MixerConfig, int, int]] = {
    "S4": (S4Config(d_state=58, n_ssm=1), 4, 0),
    "S4D": (S4DConfig(d_state=32), 4, 0),
    "S4D (bilinear)": (S4DConfig(d_state=32, discretisation="bilinear"), 4, 0),
    "S5": (S5Config(d_state=48), 4, 0),
    "Mamba": (MambaConfig(d_state=8), 2, 0),
    "Transformer": (AttentionConfig(HEADS), 2, 45),
    "Local attention": (AttentionConfig(HEADS, window=16), 2, 45),
    "Local attention (window 8)": (AttentionConfig(HEADS, window=8), 2, 45),
    "Strided attention": (AttentionConfig(HEADS, stride=8), 2, 45),
    "LSTM": (LSTMConfig(), 1, 78),
    "Mega": (_mega(), 2, 21),
    "Mega-chunk": (_mega(chunk_size=8), 2, 21),
    "Mega-chunk (no EMA)": (_mega(chunk_size=8, states=0), 2, 37),
    "Mega-chunk (S4D)": (_mega(chunk_size=8, average="s4d"), 2, 29),
}


class Labelled(Task, Protocol):
    """A task with one label per sequence: digits, ListOps, Pathfinder, tones."""

    classes: int
    length: int


def classifier_run(
    architecture: str,
    lr: float,
    task: Labelled,
    steps: int,
    batch_size: int = 32,
    norm: str = "layer",
) -> Run:
    """One model on one task; the last step answers on ListOps, elsewhere the mean of all steps."""
    mixer, n_layers, ffn_dim = _parts(architecture, task.length)
    if isinstance(mixer, MegaConfig):
        mixer = replace(mixer, norm={"layer": "layernorm", "batch": "batchnorm"}[norm])
    model = ClassifierConfig(
        task.classes,
        task.vocab_size,
        D_MODEL,
        n_layers,
        mixer,
        ffn_dim,
        pool="last" if isinstance(task, ListOps) else "mean",
        norm=norm,
    )
    return Run(architecture, model, task, _training(lr, steps, batch_size, held_out=360))


def digits_run(architecture: str, lr: float, profile_name: str = "book") -> Run:
    """Digits of 8 x 8, read in 64 steps, at a profile's size."""
    return classifier_run(architecture, lr, Digits(), load_profile(profile_name).digits_steps)


def list_run(architecture: str, lr: float, profile_name: str = "book", length: int = 32) -> Run:
    """ListOps with lists of up to `length` tokens at a profile's size."""
    task = ListOps(length, max_args=5)
    return classifier_run(architecture, lr, task, load_profile(profile_name).list_steps)


def pathfinder_run(
    architecture: str, lr: float, profile_name: str = "book", side: int = 12, norm: str = "batch"
) -> Run:
    """Pathfinder with paths of three dashes in `side` x `side` pixels at a profile's size.

    Batch norm is that of S4's published runs on this task. Four dashes would be crowded at side 12:
    the dots' places alone then tell 61% of the labels, with three 53%."""
    steps = load_profile(profile_name).pathfinder_steps
    return classifier_run(architecture, lr, Pathfinder(side, dashes=3), steps, norm=norm)


def tones_run(architecture: str, lr: float, profile_name: str = "book") -> Run:
    """The band of a tone in 128 samples at a profile's size."""
    return classifier_run(architecture, lr, Tones(), load_profile(profile_name).tones_steps)


def gap_run(
    architecture: str, lr: float, profile_name: str = "book", random_gaps: bool = True
) -> Run:
    """Copying four symbols out of 32 steps, from random or from fixed places."""
    profile = load_profile(profile_name)
    task = GapCopying(symbols=8, copied=4, context=32, random_gaps=random_gaps)
    mixer, n_layers, ffn_dim = _parts(architecture, task.length)
    skeleton = MegaModelConfig if isinstance(mixer, MegaConfig) else ModelConfig
    model = skeleton(task.vocab_size, D_MODEL, n_layers, mixer, ffn_dim)
    return Run(architecture, model, task, _training(lr, profile.gap_steps, 32, held_out=256))


RATE_COLUMNS = {
    "architecture": "key of ntlib.long_range.MODELS",
    "seed": "of weights and batches",
    "tested": "sampling rate in the test: as trained, half, or half with the step doubled",
    "accuracy": "share of held-out sequences whose band is named right",
}


def resampled(runs: Sequence[Run], checkpoints: Path, count: int = 256) -> pd.DataFrame:
    """Train on Tones, test on `count` sequences at the same rate and at half of it, there with the
    step as trained and, where there is one, doubled; rows: see RATE_COLUMNS."""
    experiments.run_grid(runs, checkpoints=checkpoints)
    rows = []
    for run in runs:
        task, half = run.task, replace(run.task, length=run.task.length // 2)
        model = experiments.trained(run, checkpoints)
        scores = {"as trained": evaluate(model, task.held_out(count))}
        scores["half"] = evaluate(model, half.held_out(count))
        if sampled_systems(model):
            resample(model, 2)
            scores["half, step doubled"] = evaluate(model, half.held_out(count))
        for tested, score in scores.items():
            values = run.architecture, run.train.seed, tested, score["token_accuracy"]
            rows.append(dict(zip(RATE_COLUMNS, values, strict=True)))
    return pd.DataFrame(rows)


def _parts(architecture: str, length: int) -> tuple[MixerConfig, int, int]:
    if architecture not in MODELS:
        raise ValueError(f"{architecture!r} is unknown; there are {', '.join(MODELS)}")
    mixer, n_layers, ffn_dim = MODELS[architecture]
    if isinstance(mixer, S4Config):
        mixer = replace(mixer, l_max=length)
    return mixer, n_layers, ffn_dim


def _training(lr: float, steps: int, batch_size: int, held_out: int) -> TrainConfig:
    return TrainConfig(steps, batch_size, lr, eval_every=max(steps // 10, 1), held_out=held_out)
