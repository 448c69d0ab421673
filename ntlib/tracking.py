"""Which recurrences can follow a state: the same small model around each mixer, trained on short
sequences and tested on longer ones.

Mixers are compared, not architectures: all stand in the skeleton of ntlib.models.language_model,
with the same width and feed-forward layer.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ntlib import experiments, probes
from ntlib.cluster import Cluster
from ntlib.experiments import Run
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.lstm import LSTMConfig
from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.protocol import MixerConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv7 import RWKV7Config
from ntlib.models.language_model import ModelConfig
from ntlib.profiles import load_profile
from ntlib.tasks import Composition, Counting
from ntlib.training import TrainConfig

TASKS = {
    "parity": Counting(2),
    "count modulo 3": Counting(3),
    "S3, swaps": Composition("S3", moves=2),
    "S3": Composition("S3"),
    "S5, swaps": Composition("S5", moves=2),
    "A5": Composition("A5"),
}
"""S5, which swaps generate, and A5 are beyond networks of fixed depth in TC0, unless TC0 = NC1."""

D_MODEL, HEADS = 32, 2  # heads of 16
_RWKV7 = RWKV7Config(head_size=D_MODEL // HEADS)
MIXERS: dict[str, MixerConfig] = {
    "RWKV-7": _RWKV7,
    "RWKV-7 (doubled step)": replace(_RWKV7, step=2.0),
    "RWKV-6": RWKV6Config(head_size=D_MODEL // HEADS, mix_rank=8, decay_rank=16),
    "Mamba": MambaConfig(),
    "RetNet": RetentionConfig(HEADS),
    "LSTM": LSTMConfig(),
    "Transformer": AttentionConfig(HEADS),
}

COLUMNS = {
    "task": "key of ntlib.tracking.TASKS",
    "architecture": "key of ntlib.tracking.MIXERS",
    "layers": "blocks of the model",
    "lr": "peak learning rate",
    "seed": "of weights and batches",
    "length": "symbols per sequence in the test",
    "loss": "nats per position, held-out sequences",
    "token_accuracy": "share of positions whose state is named right",
    "sequence_accuracy": "share of sequences with every state right",
}


def run(architecture: str, task: str, n_layers: int, lr: float, profile_name: str = "book") -> Run:
    """One model on one task at a profile's size. Raises ValueError that lists the names."""
    for name, table in ((architecture, MIXERS), (task, TASKS)):
        if name not in table:
            raise ValueError(f"{name!r} is unknown; there are {', '.join(table)}")
    profile = load_profile(profile_name)
    sized = replace(TASKS[task], length=profile.tracking_length)
    model = ModelConfig(
        sized.vocab_size, D_MODEL, n_layers, MIXERS[architecture], ffn_dim=2 * D_MODEL
    )
    steps, batch = profile.tracking_steps, profile.tracking_batch
    train = TrainConfig(steps, batch, lr, eval_every=max(steps // 10, 1), held_out=128)
    return Run(architecture, model, sized, train)


def track(
    jobs: Sequence[tuple[str, Run]],
    lengths: Sequence[int],
    checkpoints: Path,
    *,
    workers: int | Cluster = -1,
    progress: bool = False,
) -> pd.DataFrame:
    """Train every (name of its task, run), then test it at each length; rows: see COLUMNS."""
    runs = [job for _, job in jobs]
    experiments.run_grid(runs, workers=workers, checkpoints=checkpoints, progress=progress)
    frames = []
    for task, job in jobs:
        model = experiments.trained(job, checkpoints)
        scores = probes.score_by_length(model, job.task, lengths)
        scores["task"], scores["architecture"] = task, job.architecture
        scores["layers"] = job.model.n_layers
        scores["lr"], scores["seed"] = job.train.lr, job.train.seed
        frames.append(scores[list(COLUMNS)])
    return pd.concat(frames, ignore_index=True)
