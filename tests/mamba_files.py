"""Random weights with the names and shapes of the files of mamba_ssm, and their config.json.

Written down from the authors' code, not derived from ours: a name or a shape that we get wrong
shows. Every parameter is random, so that none hides behind a zero or a one.
"""

import torch
from torch import Tensor

VOCAB, ROWS = 50, 56  # rows of the table are padded to a multiple of 8
D, LAYERS, INNER, KERNEL = 32, 3, 64, 3
STATE, RANK, HEAD = 6, 5, 16  # of Mamba; Mamba-2 has states of its own and heads


def config(version: int, groups: int = 1, state: int = STATE, **changes: object) -> dict:
    """What mamba_ssm's config.json holds; `changes` replace some of it."""
    layer = {"d_state": state, "d_conv": KERNEL}
    if version == 1:
        layer |= {"dt_rank": RANK}
    else:
        layer |= {"layer": "Mamba2", "headdim": HEAD, "ngroups": groups}
    found = {"d_model": D, "n_layer": LAYERS, "vocab_size": VOCAB, "ssm_cfg": layer}
    flags = dict.fromkeys(("rms_norm", "residual_in_fp32", "fused_add_norm"), True)
    return found | flags | {"pad_vocab_size_multiple": 8} | changes


def shapes(version: int, groups: int = 1, state: int = STATE, rows: int = ROWS) -> dict[str, tuple]:
    """{name: shape} of a whole file; the head is the embedding."""
    mixer = _mixer1(state) if version == 1 else _mixer2(groups, state)
    found = {"backbone.embedding.weight": (rows, D)}
    for i in range(LAYERS):
        found[f"backbone.layers.{i}.norm.weight"] = (D,)
        found |= {f"backbone.layers.{i}.mixer.{name}": shape for name, shape in mixer.items()}
    return found | {"backbone.norm_f.weight": (D,)}


def random_weights(version: int, seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """A whole file; embedding and head share their memory, as there."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: _draw(name, shape, generator) for name, shape in shapes(version, **sizes).items()
    }
    return weights | {"lm_head.weight": weights["backbone.embedding.weight"]}


def _draw(name: str, shape: tuple, generator: torch.Generator) -> Tensor:
    """Values of the size that trained models have."""
    x = torch.randn(shape, generator=generator)
    part = name.rpartition("mixer.")[2]
    if part in ("A_log", "D", "conv1d.bias"):
        return 1 + 0.5 * x
    if part in ("dt_bias", "dt_proj.bias"):
        return x - 3
    if "norm" in part:
        return 1 + 0.2 * x
    return x * shape[-1] ** -0.5


def _mixer1(state):
    return {
        "A_log": (INNER, state),
        "D": (INNER,),
        "in_proj.weight": (2 * INNER, D),
        "conv1d.weight": (INNER, 1, KERNEL),
        "conv1d.bias": (INNER,),
        "x_proj.weight": (RANK + 2 * state, INNER),
        "dt_proj.weight": (INNER, RANK),
        "dt_proj.bias": (INNER,),
        "out_proj.weight": (D, INNER),
    }


def _mixer2(groups, state):
    heads, mixed = INNER // HEAD, INNER + 2 * groups * state
    return {
        **dict.fromkeys(("dt_bias", "A_log", "D"), (heads,)),
        "in_proj.weight": (INNER + mixed + heads, D),
        "conv1d.weight": (mixed, 1, KERNEL),
        "conv1d.bias": (mixed,),
        "norm.weight": (INNER,),
        "out_proj.weight": (D, INNER),
    }
