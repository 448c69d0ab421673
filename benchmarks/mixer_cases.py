"""Whole mixers at width 256, projections included: ours, and others' with the same sizes.

The `rwkv` package offers whole models only. So versions of RWKV come twice: the time mix beside
attention, and a model of one block beside the package's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from benchmarks import peers
from benchmarks.contenders import D_MODEL, SHAPES, Contender, decoder_of, generator, ours
from benchmarks.limits import Work
from benchmarks.operator_cases import CHANNELS, OPERATORS, WIDTH, Operator, cells
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.ema import DampedEMAConfig
from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.mamba2 import Mamba2Config
from ntlib.mixers.protocol import MixerConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.mixers.rwkv4 import RWKV4Config
from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv7 import RWKV7Config
from ntlib.mixers.s4d import S4DConfig
from ntlib.models.rwkv import RWKVConfig

BLOCK_SHAPES = ((1, 1024), (1, 4096))  # the package reads one sequence at a time
VOCABULARY = 64
PER_CHANNEL = "linear attention, decay per channel and token"


@dataclass(frozen=True)
class Mixer:
    """One of ours, what it is compared with, and the least work of its operator: of a forward pass
    over so many tokens, and of a training step. Projections are counted from the parameters."""

    ours: Callable[[], Contender]
    work: Callable[[int], Work]
    training_work: Callable[[int], Work]
    peers: dict[str, Callable[[], Contender]] = field(default_factory=dict)
    shapes: tuple[tuple[int, int], ...] = SHAPES
    part: str = "mixer"  # or "block": a model of one block, which attention alone is no measure of


def attention() -> Contender:
    """Softmax attention in 4 heads, torch's fused kernel."""
    return ours(AttentionConfig(4))


def mixer(config: MixerConfig, operator: str, rivals: dict[str, Callable[[], Contender]]) -> Mixer:
    case = OPERATORS[operator]
    return Mixer(partial(ours, config), case.work, case.training_work, rivals)


def mamba2(d_state: int, chunk_size: int) -> Mixer:
    """Beside transformers with the chunk size that its configuration would have."""
    state = CHANNELS * d_state  # cells; all heads share one query and one key
    return Mixer(
        partial(ours, Mamba2Config(d_state=d_state)),
        cells(state, 2, 2 * CHANNELS + 2 * d_state),
        cells(state, 7, 5 * CHANNELS + 6 * d_state),
        {
            f"transformers, chunks of {chunk_size}": partial(
                peers.transformers_mamba2, d_state, chunk_size
            )
        },
    )


def rwkv_block(version: int, config: MixerConfig, operator: str) -> Mixer:
    """Both mixers, the embedding and a small head."""
    case: Operator = OPERATORS[operator]
    peer = {"rwkv package": partial(peers.rwkv_package, version)}
    return Mixer(
        partial(_rwkv_model, config), case.work, case.training_work, peer, BLOCK_SHAPES, "block"
    )


def _rwkv_model(config: MixerConfig) -> Contender:
    model = RWKVConfig(VOCABULARY, D_MODEL, 1, config, ffn_dim=4 * D_MODEL).build(generator())
    token = torch.ones(1, dtype=torch.long)

    def forward(x):
        return model(torch.ones(x.shape[:2], dtype=torch.long))[0]

    def step(x_t, states):
        return model.step(token, states)

    return Contender(forward, list(model.parameters()), decoder_of(step, model.init_states(1)))


def mixers(s4: Path | None = None, mega: Path | None = None) -> dict[str, Mixer]:
    """Name -> mixer; S4D and the moving average have peers where checkouts of their repositories
    are given."""
    chunks = (64, 128)
    return {
        "Mamba": mixer(MambaConfig(), "selective scan", {"mambapy": peers.mambapy}),
        "Mamba-2, N=64": mamba2(64, 64),
        "Mamba-2, N=128": mamba2(128, 256),
        "RetNet": mixer(
            RetentionConfig(4, value_dim=WIDTH),
            "linear attention, fixed decay per head",
            {f"torchscale, chunks of {n}": partial(peers.torchscale_retnet, n) for n in chunks},
        ),
        "RWKV-4": mixer(RWKV4Config(), "wkv", {"transformers": peers.transformers_rwkv4}),
        "RWKV-4 block": rwkv_block(4, RWKV4Config(), "wkv"),
        "RWKV-6": mixer(RWKV6Config(), PER_CHANNEL, {}),
        "RWKV-6 block": rwkv_block(6, RWKV6Config(), PER_CHANNEL),
        "RWKV-7": mixer(RWKV7Config(), "delta rule", {}),
        "RWKV-7 block": rwkv_block(7, RWKV7Config(), "delta rule"),
        "S4D": mixer(
            S4DConfig(),
            "long convolution, complex",
            {"official minimal module": partial(peers.official_s4d, s4)} if s4 else {},
        ),
        "Mega's moving average": mixer(
            DampedEMAConfig(),
            "long convolution, real",
            {"official module": partial(peers.official_ema, mega)} if mega else {},
        ),
    }
