"""What fixes a published Mamba or Mamba-2: its config.json, or what its tensors tell.

Two kinds of config.json are read, that of mamba_ssm and that of transformers. A value that our
layers do not compute is refused. Of those that change nothing but speed, training or rounding none
is read; among them is residual_in_fp32: in float32 and wider all is as published, in bfloat16 our
residual stream is rounded as the rest is.
"""

import math
import re
from collections.abc import Mapping

from torch import Tensor

from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.mamba2 import Mamba2Config
from ntlib.models.language_model import ModelConfig
from ntlib.models.weight_layout import count_blocks, size, some

EMBEDDING = "backbone.embedding.weight"
LAYERS = "backbone.layers."
EPS = 1e-5  # of every norm in all published models; neither tensors nor mamba_ssm's config tell it


def from_json(found: Mapping) -> ModelConfig:
    """Raises ValueError that names what is missing, of a wrong kind, or not supported."""
    if "model_type" in found:
        return _of_transformers(found)
    if "d_model" in found and "n_layer" in found:
        return _of_mamba_ssm(found)
    raise ValueError("it has neither model_type (transformers) nor d_model and n_layer (mamba_ssm)")


def _of_mamba_ssm(found: Mapping) -> ModelConfig:
    _supports(found, rms_norm=True, d_intermediate=0, attn_layer_idx=[])
    layer = found.get("ssm_cfg") or {}
    _supports(layer, bias=False, conv_bias=True)
    multiple = _whole(found, "pad_vocab_size_multiple", 8)
    shared = {"d_conv": _whole(layer, "d_conv", 4), "expand": _whole(layer, "expand", 2)}
    kind = layer.get("layer", "Mamba1")
    if kind == "Mamba1":
        mixer = MambaConfig(_whole(layer, "d_state", 16), dt_rank=_rank(layer, "dt_rank"), **shared)
    elif kind == "Mamba2":
        _supports(layer, d_ssm=None, D_has_hdim=False, rmsnorm=True, norm_before_gate=False)
        _supports_no_limit(layer, "dt_limit")
        state, head = _whole(layer, "d_state", 128), _whole(layer, "headdim", 64)
        mixer = Mamba2Config(state, head, n_groups=_whole(layer, "ngroups", 1), eps=EPS, **shared)
    else:
        raise ValueError(f"ssm_cfg: layer must be 'Mamba1' or 'Mamba2', it is {kind!r}")
    vocab = -(-_whole(found, "vocab_size") // multiple) * multiple
    sizes = _whole(found, "d_model"), _whole(found, "n_layer")
    return _model(vocab, *sizes, mixer, found.get("tie_embeddings", True))


def _of_transformers(found: Mapping) -> ModelConfig:
    kind = found["model_type"]
    if kind not in ("mamba", "mamba2"):
        raise ValueError(f"model_type must be 'mamba' or 'mamba2', it is {kind!r}")
    _supports(found, hidden_act="silu", use_bias=False, use_conv_bias=True)
    width, state = _whole(found, "hidden_size"), _whole(found, "state_size")
    shared = {"d_conv": _whole(found, "conv_kernel"), "expand": _whole(found, "expand")}
    eps = float(found.get("layer_norm_epsilon", EPS))
    if kind == "mamba":
        mixer = MambaConfig(state, dt_rank=_rank(found, "time_step_rank"), **shared)
    else:
        _supports_no_limit(found, "time_step_limit")
        head, groups = _whole(found, "head_dim"), _whole(found, "n_groups")
        _supports(found, num_heads=shared["expand"] * width // head)
        mixer = Mamba2Config(state, head, n_groups=groups, eps=eps, **shared)
    sizes = _whole(found, "vocab_size"), width, _whole(found, "num_hidden_layers")
    # what transformers leaves out of the file has the value of its class
    return _model(*sizes, mixer, found.get("tie_word_embeddings", kind == "mamba"), eps)


def from_tensors(weights: Mapping[str, Tensor], tied: bool) -> ModelConfig:
    """Sizes from names and shapes, where no config.json tells them.

    Raises ValueError if they are of no Mamba, or do not tell all: of Mamba-2 they tell the product
    of n_groups and d_state, which is taken for one group if it is the 128 of its authors' models.
    """
    if not any(name.endswith(".mixer.A_log") for name in weights):
        raise ValueError(
            f"these are no Mamba weights: no layer has mixer.A_log; names begin "
            f"{some(list(weights), 4)}"
        )
    d_model = size(weights, EMBEDDING, 1)
    d_inner = size(weights, "mixer.out_proj.weight", 1)
    if d_inner % d_model:
        raise ValueError(
            f"the width inside, {d_inner}, must be a multiple of the width outside, {d_model}"
        )
    shared = {"d_conv": size(weights, "mixer.conv1d.weight", 2), "expand": d_inner // d_model}
    if any(name.endswith(".mixer.dt_proj.weight") for name in weights):
        rank = size(weights, "mixer.dt_proj.weight", 1)
        mixer = MambaConfig(size(weights, "mixer.A_log", 1), dt_rank=rank, **shared)
    else:
        states = (size(weights, "mixer.conv1d.weight", 0) - d_inner) // 2
        if states != Mamba2Config.d_state:
            raise ValueError(
                f"n_groups x d_state is {states}, and only config.json, which must lie beside the "
                f"file, tells what each of them is"
            )
        mixer = Mamba2Config(head_dim=d_inner // size(weights, "mixer.A_log", 0), eps=EPS, **shared)
    vocab, layers = size(weights, EMBEDDING, 0), count_blocks(weights, LAYERS)
    return _model(vocab, d_model, layers, mixer, tied)


def _model(vocab, d_model, n_layers, mixer, tied, eps=EPS) -> ModelConfig:
    return ModelConfig(vocab, d_model, n_layers, mixer, ffn_dim=0, tied=bool(tied), norm_eps=eps)


def _whole(found: Mapping, name: str, default: int | None = None) -> int:
    """A size; without `default` it must be there."""
    value = found.get(name, default)
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a positive whole number, it is {value!r}")
    return value


def _rank(found: Mapping, name: str) -> int | None:
    return None if found.get(name, "auto") == "auto" else _whole(found, name)


def _supports(found: Mapping, **values: object) -> None:
    """What is not there has the value that we support."""
    for name, value in values.items():
        if found.get(name, value) != value:
            raise ValueError(
                f"{name} must be {value!r}, other values are not supported; it is {found[name]!r}"
            )


def _supports_no_limit(found: Mapping, name: str) -> None:
    """Of Delta; newer versions of transformers write infinity as an object with its name."""
    numbers = re.findall(r"[\d.]+|inf", str(found.get(name, (0.0, math.inf))).lower())
    if [float(number) for number in numbers] != [0.0, math.inf]:
        raise ValueError(
            f"{name} must be [0, infinity], no other limit is supported; it is {found[name]!r}"
        )
