"""What selection buys, in small: selective copying and induction heads, and language with parts of
Mamba's block taken out.

Models are two layers wide as the Mamba paper's (2312.00752, Sec. 4.1 and App. E.1), without
feed-forward layers where the published block has none, and with equal parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from ntlib import experiments
from ntlib.experiments import Run
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.h3 import H3Config
from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.mamba_variants import MambaVariantConfig
from ntlib.mixers.protocol import MixerConfig
from ntlib.models import presets
from ntlib.models.language_model import LanguageModel, ModelConfig
from ntlib.profiles import load_profile
from ntlib.tasks import GapCopying, InductionHeads, Text
from ntlib.training import TrainConfig

D_MODEL, LAYERS = 64, 2

# Two blocks of Mamba have 65,280 parameters. Without the gate its weights go into more channels,
# with fewer states; S4D's systems get the states that the maps of Delta, B and C would cost.
COPYING: dict[str, MixerConfig] = {
    "Mamba": MambaVariantConfig(),
    "S4D (Mamba's block)": MambaVariantConfig("S4D", d_state=28),
    "Mamba (no gate)": MambaVariantConfig(gate=False, expand=3, d_state=9),
    "S4D (no gate)": MambaVariantConfig("S4D", gate=False, expand=3, d_state=18),
}

# Mixer, and the hidden width of a feed-forward layer where the block has one.
INDUCTION: dict[str, tuple[MixerConfig, int]] = {
    "Mamba": (MambaConfig(), 0),
    "Transformer": (AttentionConfig(2), 84),
    "Transformer (xPos)": (AttentionConfig(2, xpos_base=512.0), 84),
    "Transformer (absolute)": (AttentionConfig(2, rope_base=None, absolute=True), 84),
    "Transformer (no positions)": (AttentionConfig(2, rope_base=None), 84),
    "H3": (H3Config(), 39),
    "S4D (Mamba's block)": (MambaVariantConfig("S4D", d_state=28), 0),
}

# Half of language.RATES: a rate that never falls must be lower.
INDUCTION_RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
FAR_RATES = (4e-3, 8e-3, 1.6e-2)
DECAYED = "Mamba (weights decay)"

# In Mamba's block of the small language model. What a part that does not select no longer costs
# goes into the size of the state.
ABLATIONS: dict[str, MambaVariantConfig] = {
    "Mamba": MambaVariantConfig(),
    "no convolution": MambaVariantConfig(d_conv=1, d_state=17),
    "no gate": MambaVariantConfig(gate=False, expand=3, d_state=9),
    "step fixed": MambaVariantConfig(fixed=("delta",), d_state=19),
    "B fixed": MambaVariantConfig(fixed=("B",), d_state=24),
    "C fixed": MambaVariantConfig(fixed=("C",), d_state=24),
    "nothing selected (S4D)": MambaVariantConfig("S4D", d_state=28),
}
# The same with other sizes of the state; these differ in parameters, too.
STATES = {f"N = {n}": MambaVariantConfig(d_state=n) for n in (4, 8, 16, 32, 64, 128)}


def copying_run(
    architecture: str,
    lr: float,
    profile_name: str = "book",
    context: int | None = None,
    steps: int | None = None,
) -> Run:
    """Selective copying at a profile's size, or out of `context` places, or for `steps` steps."""
    profile = load_profile(profile_name)
    context = context or profile.copying_context
    task = GapCopying(14, profile.copied, context, shortest=16)
    model = ModelConfig(task.vocab_size, D_MODEL, LAYERS, _entry(COPYING, architecture), ffn_dim=0)
    train = _training(steps or profile.copying_steps, lr)
    return Run(architecture, model, task, train)


def induction_run(
    architecture: str, lr: float, profile_name: str = "book", steps: int | None = None
) -> Run:
    """Induction heads at a profile's size, or for `steps` steps; the paper's vocabulary, and its
    optimiser: the rate stays, weights do not decay. Decay holds the gates half open, and what leaks
    in 256 tokens is little, in a million all."""
    profile = load_profile(profile_name)
    task = InductionHeads(16, profile.induction_length, shortest=16)
    mixer, ffn_dim = _entry(INDUCTION, architecture)
    model = ModelConfig(task.vocab_size, D_MODEL, LAYERS, mixer, ffn_dim)
    train = replace(
        _training(steps or profile.induction_steps, lr),
        final_lr=1.0,
        weight_decay=0.0,
        betas=(0.9, 0.999),
    )
    return Run(architecture, model, task, train)


def far_runs(rates: Mapping[str, float], steps: int) -> list[Run]:
    """Induction heads for `steps` steps at the rate of each architecture; Mamba at other high rates
    as well, and at its own with the decay of weights that the book's other runs have."""
    runs = [induction_run(name, rates[name], steps=steps) for name in INDUCTION]
    mamba = next(run for run in runs if run.architecture == "Mamba")
    others = [induction_run("Mamba", lr, steps=steps) for lr in FAR_RATES if lr != mamba.train.lr]
    decayed = replace(mamba.train, weight_decay=TrainConfig.weight_decay)
    return runs + others + [replace(mamba, architecture=DECAYED, train=decayed)]


def ablation_run(variant: str, lr: float, profile_name: str = "book") -> Run:
    """The small Mamba on text with one part changed, at a profile's size."""
    profile, task = load_profile(profile_name), Text(load_profile(profile_name).ablation_length)
    mixer = _entry(ABLATIONS | STATES, variant)
    model = replace(presets.small("Mamba", task.vocab_size), mixer=mixer)
    return Run(variant, model, task, _training(profile.ablation_steps, lr))


FAR_COLUMNS = {
    "architecture": "key of ntlib.selection.INDUCTION, or its Mamba with weights that decay",
    "lr": "peak learning rate",
    "seed": "of weights and batches",
    "length": "tokens of a sequence in the test",
    "sequences": "tested on",
    "accuracy": "share of them that are answered right",
}


@torch.no_grad()
def accuracy_at(
    model: LanguageModel, task: InductionHeads, length: int, count: int, at_once: int = 2**16
) -> float:
    """Share right of `count` held-out sequences of `length` tokens. Models read `at_once` tokens:
    several sequences, or a part of one, with the state carried to the next part."""
    inputs, targets = replace(task, length=length, shortest=None).held_out(count)
    right = []
    for rows in torch.arange(count).split(max(at_once // length, 1)):
        states = None
        for part in inputs[rows].split(at_once, dim=1):
            h, states = model.hidden(part, states)
        right.append(model.head(h[:, -1]).argmax(-1) == targets[rows, -1])
    return torch.cat(right).double().mean().item()


def far(
    runs: Sequence[Run],
    lengths: Sequence[int],
    tokens: int,
    checkpoints: Path,
    attention_up_to: int = 2**12,
    least: int = 1,
) -> pd.DataFrame:
    """Test the trained models of `runs` at each length, on as many sequences as `tokens` in all, at
    most 256 and at least `least`; attention, whose time is quadratic, up to a length of its own.
    Rows: see FAR_COLUMNS."""
    rows = []
    for run in runs:
        model = experiments.trained(run, checkpoints)
        longest = attention_up_to if run.architecture.startswith("Transformer") else max(lengths)
        for length in (n for n in lengths if n <= longest):
            count = min(max(tokens // length, least), 256)
            accuracy = accuracy_at(model, run.task, length, count)
            origin = (run.architecture, run.train.lr, run.train.seed)
            rows.append((*origin, length, count, accuracy))
    return pd.DataFrame(rows, columns=list(FAR_COLUMNS))


def _entry(table, name):
    if name not in table:
        raise ValueError(f"{name!r} is unknown; there are {', '.join(table)}")
    return table[name]


def _training(steps: int, lr: float) -> TrainConfig:
    return TrainConfig(steps, 8, lr, eval_every=max(steps // 10, 1), held_out=128)
