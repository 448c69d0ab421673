"""Published sizes, and the small pairs of models that chapters train against each other."""

from dataclasses import replace
from typing import Any

from ntlib.mixer_costs import mixer_cost
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.dss import DSSConfig
from ntlib.mixers.linear_attention import LinearAttentionConfig
from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.mamba2 import Mamba2Config
from ntlib.mixers.mcsd import MCSDConfig
from ntlib.mixers.mega import MegaConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.mixers.s4 import S4Config
from ntlib.mixers.s4d import S4DConfig
from ntlib.mixers.s5 import S5Config
from ntlib.models import rwkv_sizes
from ntlib.models.language_model import ModelConfig
from ntlib.models.mega import MegaModelConfig
from ntlib.models.rwkv import RWKVConfig

# RetNet, arXiv 2307.08621: Table 2 of the later version (Table 8) gives layers, width and heads;
# Sec. 3.1 a value width of 2 d_model and a GELU feed-forward layer of 2 d_model, which makes 12
# d_model^2 per block as in a Transformer.
RETNET_PAPER = {"1.3B": (24, 2048, 8), "2.7B": (32, 2560, 10), "6.7B": (32, 4096, 16)}

# microsoft/torchscale, examples/fairseq/models/retnet.py: d_model, value and feed-forward width,
# heads, layers.
RETNET_TORCHSCALE = {
    "base": (512, 864, 2, 6),
    "medium": (1024, 1728, 4, 16),
    "xl": (2048, 3456, 8, 24),
    "3b": (2560, 4280, 10, 32),
    "7b": (4096, 6912, 16, 32),
    "13b": (5120, 8560, 20, 40),
    "65b": (8192, 13824, 32, 64),
}

# Released by state-spaces, mamba-130m ... and mamba2-130m ...: layers, width (config.json).
MAMBA = {
    "130m": (24, 768),
    "370m": (48, 1024),
    "790m": (48, 1536),
    "1.4b": (48, 2048),
    "2.8b": (64, 2560),
}
MAMBA2 = {
    "130m": (24, 768),
    "370m": (48, 1024),
    "780m": (48, 1536),
    "1.3b": (48, 2048),
    "2.7b": (64, 2560),
}

# MCSD, arXiv 2406.12230, Table 1: layers, width, channels.
MCSD = {"1.6B": (12, 2560, 10), "3B": (20, 2560, 10), "10B": (60, 3072, 12)}

# The first reads the MCSD paper as its inference form; the others change one choice that the
# paper leaves open or contradicts (see ntlib.mixers.mcsd), or its sections, as its Fig. 9 does.
YAN_READINGS = {
    "Yan": {},
    "Yan (sigmoid gate)": {"gate": "sigmoid"},
    "Yan (norm of rows)": {"decay_norm": "rows"},
    "Yan (no norm)": {"decay_norm": "none"},
    "Yan (concatenated)": {"fusion": "concat"},
    "Yan (maps per channel)": {"projection": "channel"},
    "Yan (slope alone)": {"sections": ("slope",)},
    "Yan (decay alone)": {"sections": ("decay",)},
}

# The small models: what they change of Mega, and the width of their feed-forward layers. Chunks are
# a quarter of the contexts that chapters train on.
MEGA_SMALL: dict[str, tuple[dict[str, Any], int]] = {
    "Mega": ({}, 107),
    "Mega-chunk": ({"chunk_size": 32}, 107),
    "Mega-chunk (no EMA)": ({"chunk_size": 32, "states": 0}, 139),
    "Mega-chunk (S4D)": ({"chunk_size": 32, "average": "s4d"}, 122),
}


def retnet_paper(size: str, vocab_size: int = 32000) -> ModelConfig:
    """A size of the paper.

    The paper does not state its vocabulary; compare parameters without embeddings.
    """
    n_layers, d_model, n_heads = _entry(RETNET_PAPER, size)
    mixer = RetentionConfig(n_heads, value_factor=2)
    return ModelConfig(vocab_size, d_model, n_layers, mixer, ffn_dim=2 * d_model, ffn="gelu")


def retnet_torchscale(size: str, vocab_size: int = 32000) -> ModelConfig:
    """A size of the released code, with gated feed-forward layers."""
    d_model, width, n_heads, n_layers = _entry(RETNET_TORCHSCALE, size)
    mixer = RetentionConfig(n_heads, value_dim=width)
    return ModelConfig(vocab_size, d_model, n_layers, mixer, ffn_dim=width, ffn="geglu")


def transformer_paper(
    size: str, n_kv_heads: int | None = None, vocab_size: int = 32000
) -> ModelConfig:
    """The Transformer of the same depth, width and number of parameters, in heads of 128.

    With fewer key-value heads the feed-forward layer gets the parameters that W_K and W_V save.
    The paper does not state its head width; no cost here depends on it.
    """
    n_layers, d_model, _ = _entry(RETNET_PAPER, size)
    n_heads = d_model // 128
    mixer = AttentionConfig(n_heads, n_kv_heads)
    saved = d_model - d_model * (n_kv_heads or n_heads) // n_heads  # columns of W_K and of W_V
    return ModelConfig(
        vocab_size, d_model, n_layers, mixer, ffn_dim=4 * d_model + saved, ffn="gelu"
    )


def mamba(size: str, vocab_size: int = 50280) -> ModelConfig:
    """A released size of Mamba; its vocabulary is GPT-NeoX's 50277 tokens, padded to eights."""
    n_layers, d_model = _entry(MAMBA, size)
    return _mamba_model(vocab_size, d_model, n_layers, MambaConfig())


def mamba2(size: str, vocab_size: int = 50288) -> ModelConfig:
    """A released size of Mamba-2; the same vocabulary, padded to sixteens."""
    n_layers, d_model = _entry(MAMBA2, size)
    return _mamba_model(vocab_size, d_model, n_layers, Mamba2Config())


def mcsd(size: str, vocab_size: int, mixer: MCSDConfig | None = None) -> ModelConfig:
    """A size of the MCSD paper, which states neither its vocabulary nor the width of its GeGLU.

    Four times d_model is a conjecture: with it, and no other usual width, the counts come near the
    names. `mixer` chooses among the readings of the block; its channels are those of the size.
    """
    n_layers, d_model, n_channels = _entry(MCSD, size)
    mixer = replace(mixer or MCSDConfig(), n_channels=n_channels)
    return ModelConfig(vocab_size, d_model, n_layers, mixer, ffn_dim=4 * d_model, ffn="geglu")


def small_yan(reading: str, vocab_size: int, length: int) -> ModelConfig:
    """The small Yan under one of YAN_READINGS, trained on `length` tokens.

    What the maps of a reading take or leave, the feed-forward layer gives or gets.
    """
    changes = _entry(YAN_READINGS, reading, "reading")
    default = small("Yan", vocab_size)
    mixer = replace(default.mixer, **changes, row_length=length)
    d_model = default.d_model
    ours, theirs = (mixer_cost(config, d_model).parameters for config in (mixer, default.mixer))
    ffn_dim = default.ffn_dim + round((theirs - ours) / (3 * d_model))
    return replace(default, mixer=mixer, ffn_dim=ffn_dim)


def _mamba_model(vocab_size, d_model, n_layers, mixer):
    return ModelConfig(vocab_size, d_model, n_layers, mixer, ffn_dim=0, tied=True, norm_eps=1e-5)


def _entry(table, key, what="size"):
    if key not in table:
        raise ValueError(f"{what} must be one of {', '.join(table)}, got {key!r}")
    return table[key]


def small(architecture: str, vocab_size: int) -> ModelConfig | RWKVConfig | MegaModelConfig:
    """The small models that chapters train live, of two layers: the same number of parameters
    within 0.5%.

    A mixer with wide values (RetNet's 8 d_model^2 against attention's 4 d_model^2) gets the
    narrower feed-forward layer, as in RetNet's paper; so do the state space models, whose states
    have 64 numbers per channel (S5: 128 per layer). Mamba and Mamba-2 have, as published, no
    feed-forward layer, and three layers instead. RWKV-4 to RWKV-7 are whole models with
    feed-forward layers of their own.
    """
    if architecture in rwkv_sizes.SMALL:
        return rwkv_sizes.small(architecture, vocab_size)
    d_model, n_heads = 64, 2  # heads of 32
    if architecture in MEGA_SMALL:
        changes, ffn_dim = MEGA_SMALL[architecture]
        mega = replace(MegaConfig(32, 104, position_bias="rotary"), **changes)
        return MegaModelConfig(vocab_size, d_model, n_layers=2, mixer=mega, ffn_dim=ffn_dim)
    choices = {
        "Transformer": (AttentionConfig(n_heads), 170),
        "Transformer (no positions)": (AttentionConfig(n_heads, rope_base=None), 170),
        "Linear attention": (LinearAttentionConfig(n_heads), 170),
        "RetNet": (RetentionConfig(n_heads), 85),
        "Yan": (MCSDConfig(n_channels=4), 170),
        "Local attention": (AttentionConfig(n_heads, window=32), 170),
        "Strided attention": (AttentionConfig(n_heads, stride=32), 170),
        "S4": (S4Config(), 126),
        "S4D": (S4DConfig(), 169),
        "DSS": (DSSConfig(), 190),
        "S5": (S5Config(d_state=128, blocks=4, gate="full"), 125),
        "Mamba": (MambaConfig(), 0),
        "Mamba-2": (Mamba2Config(d_state=52, head_dim=32), 0),
        "Hybrid": ((MambaConfig(), AttentionConfig(n_heads)), 128),
    }
    if architecture not in choices:
        names = ", ".join([*choices, *MEGA_SMALL, *rwkv_sizes.SMALL])
        raise ValueError(f"architecture must be one of {names}, got {architecture!r}")
    mixer, ffn_dim = choices[architecture]
    ffn = "geglu" if architecture == "Yan" else "swiglu"  # as published; of the same size
    return ModelConfig(vocab_size, d_model, 2 if ffn_dim else 3, mixer, ffn_dim, ffn)
