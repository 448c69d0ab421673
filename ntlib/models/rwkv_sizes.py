"""The released sizes of RWKV, version 4 to 7, and the small ones that the chapter trains.

What is published is seldom the number of parameters: names of files round it, in either direction,
and the author's README counts for version 7 three tensors of block 0 that no code reads (`unused`).
"""

from dataclasses import dataclass

import pandas as pd
import torch

from ntlib.mixers.rwkv4 import RWKV4Config
from ntlib.mixers.rwkv5 import RWKV5Config
from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv7 import RWKV7Config
from ntlib.models.language_model import count_parameters
from ntlib.models.rwkv import RWKVConfig

PILE = 50277  # GPT-NeoX's tokens, which the models on the Pile read
PILE_PADDED = 50304  # the same in later releases, rounded up to a multiple of 128
WORLD = 65536

FILE = "name of the released file"
SERIES = "name of the model in its series"
EAGLE = "abstract of arXiv 2404.05892"
GOOSE = "abstract of arXiv 2503.14456"
README = "README of BlinkDL/RWKV-LM"
FIGURE = "BlinkDL/RWKV-LM, RWKV-v7-niah.png"


@dataclass(frozen=True)
class Release:
    """One released size."""

    name: str
    config: RWKVConfig
    published: str  # the number of parameters as the source writes it
    source: str  # where it is written
    verified: bool = True  # False: some size behind it is a rule's or remembered, not read anywhere


def _pile4(name: str, n_layers: int, d_model: int) -> Release:
    return Release(f"RWKV-4 {name}", RWKVConfig(PILE, d_model, n_layers, RWKV4Config()), name, FILE)


def _world5(name: str, n_layers: int, d_model: int, published: str, source: str) -> Release:
    config = RWKVConfig(WORLD, d_model, n_layers, RWKV5Config())
    return Release(f"RWKV-5 {name}", config, published, source)


def _world6(name: str, n_layers: int, d_model: int, published: str, source: str) -> Release:
    wide = d_model > 2560  # the ranks of 7B and 14B, and the depth of 14B, are not verified
    mixer = RWKV6Config(mix_rank=64, decay_rank=128) if wide else RWKV6Config()
    config = RWKVConfig(WORLD, d_model, n_layers, mixer)
    return Release(f"RWKV-6 {name}", config, published, source, verified=not wide)


# width -> ranks of the low-rank maps of version 7: decay, in-context rate, value residual, gate.
# Verified up to 2048 (README, rwkv_v7_demo.py); wider ones are the rule of RWKV-v5/src/model.py.
RANKS = {
    768: (64, 64, 32, 128),
    1024: (64, 64, 32, 128),
    2048: (96, 96, 64, 256),
    2560: (96, 96, 64, 320),
    4096: (128, 128, 96, 480),
}


def rwkv7(d_model: int, gate_rank: int | None = None) -> RWKV7Config:
    """The time mix of a released width. Raises ValueError that lists the widths."""
    if d_model not in RANKS:
        raise ValueError(f"d_model must be one of {', '.join(map(str, RANKS))}, got {d_model}")
    decay, rate, value, gate = RANKS[d_model]
    return RWKV7Config(
        decay_rank=decay, rate_rank=rate, value_rank=value, gate_rank=gate_rank or gate
    )


def _pile7(name: str, n_layers: int, d_model: int, gate_rank: int | None = None) -> Release:
    config = RWKVConfig(PILE_PADDED, d_model, n_layers, rwkv7(d_model, gate_rank))
    return Release(f"RWKV-7 Pile {name}", config, name, FIGURE)


def _world7(name: str, n_layers: int, d_model: int, published: str, source: str) -> Release:
    config = RWKVConfig(WORLD, d_model, n_layers, rwkv7(d_model))
    return Release(f"RWKV-7 {name}", config, published, source, verified=d_model <= 2048)


RELEASES = {
    release.name: release
    for release in (
        _pile4("169M", 12, 768),
        _pile4("430M", 24, 1024),
        _pile4("1.5B", 24, 2048),
        _pile4("3B", 32, 2560),
        _pile4("7B", 32, 4096),
        _pile4("14B", 40, 5120),
        _world5("0.4B", 24, 1024, "0.46B", EAGLE),
        _world5("1.5B", 24, 2048, "1.5B", SERIES),
        _world5("3B", 32, 2560, "3B", SERIES),
        _world5("7B", 32, 4096, "7.5B", EAGLE),
        _world6("1.6B", 24, 2048, "1.6B", EAGLE),
        _world6("3B", 32, 2560, "3.1B", EAGLE),
        _world6("7B", 32, 4096, "7B", SERIES),
        _world6("14B", 61, 4096, "14B", SERIES),
        _pile7("168M", 12, 768),
        _pile7("421M", 24, 1024, gate_rank=160),  # with the World models' 128 it would be 418M
        _pile7("1.47B", 24, 2048),
        _world7("0.1B", 12, 768, "0.1B", FILE),
        _world7("0.4B", 24, 1024, "450.834432M", README),
        _world7("1.5B", 24, 2048, "1.5B", FILE),
        _world7("2.9B", 32, 2560, "2.9B", GOOSE),
        _world7("7.2B", 32, 4096, "7.2B", README),
    )
}


def count(config: RWKVConfig) -> int:
    """Parameters of a model, counted on the meta device: nothing is allocated."""
    with torch.device("meta"):
        return count_parameters(config.build())


def unused(config: RWKVConfig) -> int:
    """Numbers of block 0's v0, v1 and v2, which an official file of version 7 has and no code
    reads: as many as in any other block."""
    if config.version != 7 or config.n_layers < 2:
        return 0
    with torch.device("meta"):
        block = config.build().blocks[1]
    return sum(getattr(block.att, name).numel() for name in ("v0", "v1", "v2"))


def agrees(published: str, number: int) -> bool:
    """Is `number` what is published ("169M", "1.5B", "450.834432M"), at as many digits?"""
    value, unit = published[:-1], {"M": 10**6, "B": 10**9}[published[-1]]
    return f"{number / unit:.{len(value.partition('.')[2])}f}" == value


def table() -> pd.DataFrame:
    """A row per release. `computed` counts an official file: `unused` is part of it."""
    rows = []
    for release in RELEASES.values():
        config = release.config
        number = count(config) + unused(config)
        rows.append(
            {
                "model": release.name,
                "version": config.version,
                "layers": config.n_layers,
                "width": config.d_model,
                "vocabulary": config.vocab_size,
                "published": release.published,
                "computed": number,
                "unused": unused(config),
                "agrees": agrees(release.published, number),
                "verified": release.verified,
                "source": release.source,
            }
        )
    return pd.DataFrame(rows)


# hidden width of the channel mix that makes two layers of width 64 as many parameters as the small
# Transformer's (presets.small), within 0.5%; heads of 32, as there
SMALL = {
    "RWKV-4": (RWKV4Config(), 218),
    "RWKV-5": (RWKV5Config(head_size=32), 184),
    "RWKV-6": (RWKV6Config(head_size=32, mix_rank=8, decay_rank=16), 128),
    "RWKV-7": (
        RWKV7Config(head_size=32, decay_rank=16, rate_rank=16, value_rank=16, gate_rank=16),
        190,
    ),
}


def small(architecture: str, vocab_size: int) -> RWKVConfig:
    """One of SMALL; see presets.small. The released ranks (32 and more) would be half of so narrow
    a model: they are 8 and 16 here."""
    mixer, ffn_dim = SMALL[architecture]
    return RWKVConfig(vocab_size, d_model=64, n_layers=2, mixer=mixer, ffn_dim=ffn_dim)
