"""Published RWKV weights, version 4, 5.2, 6 and 7, into our model.

Our parameters carry the names of the author's .pth files, so that loading is: find out the version
and all sizes from names and shapes, compare every name and shape with what a model of that version
and size has, and put the tensors in place without a copy. Tensors are found by name: released files
of version 7 store them in another order than freshly trained ones.

`transformers` (its `rwkv` models are version 4) renames the parts: see `_OFFICIAL`. What it saved
after `model.eval()` has its output and value matrices divided by 2 every 6 layers, which no file
tells; save before.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ntlib.mixers.rwkv4 import RWKV4Config
from ntlib.mixers.rwkv5 import RWKV5Config
from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv7 import RWKV7Config
from ntlib.models.rwkv import RWKV, RWKVConfig
from ntlib.models.weight_layout import check_numbers, count_blocks, fill, size, some

# names of transformers' parts -> the author's
_OFFICIAL = {
    "rwkv.embeddings.": "emb.",
    "rwkv.": "",
    ".pre_ln.": ".ln0.",
    ".attention.": ".att.",
    ".feed_forward.": ".ffn.",
    "time_mix_key": "time_mix_k",
    "time_mix_value": "time_mix_v",
    "time_mix_receptance": "time_mix_r",
}
# Parameters of block 0 that are in some files although nothing reads them: the value residual mixes
# in the values of block 0 itself.
_UNUSED = {f"blocks.0.att.v{i}" for i in range(3)}


def from_tensors(weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> RWKV:
    """A model that holds these tensors; without `dtype` in the widest type that occurs.

    Raises ValueError if the version cannot be told, and one that lists all names that are missing
    or unexpected and all shapes that are wrong.
    """
    weights = _official_names(weights)
    check_numbers(weights)
    config = infer_config(weights)
    with torch.device("meta"):
        model = RWKV(config)
    if config.version == 7:
        weights = {name: x for name, x in weights.items() if name not in _UNUSED}
    kind = f"an RWKV-{config.version} of {config.n_layers} layers, width {config.d_model}"
    fill(model, weights, kind, dtype)
    return model


def infer_config(weights: Mapping[str, Tensor]) -> RWKVConfig:
    """Version and sizes from names and shapes alone.

    Raises ValueError if the blocks are those of no version that we know, or if a parameter whose
    shape fixes a size is in none of them.
    """
    return RWKVConfig(
        vocab_size=size(weights, "emb.weight", 0),
        d_model=size(weights, "emb.weight", 1),
        n_layers=count_blocks(weights, "blocks."),
        mixer=_MIXERS[_version(weights)](weights),
        ffn_dim=size(weights, "ffn.key.weight", 0),
    )


def _version(weights: Mapping[str, Tensor]) -> int:
    """Told by names that one version alone has."""
    names = {name.split(".", 2)[2] for name in weights if re.match(r"blocks\.\d+\.att\.", name)}
    marks = {7: "att.x_r", 6: "att.time_maa_x", 5: "att.time_faaaa", 4: "att.time_mix_r"}
    version = next((version for version, mark in marks.items() if mark in names), None)
    if version is None:
        raise ValueError(
            "these are no RWKV weights of version 4, 5.2, 6 or 7: no block has "
            f"{', '.join(marks.values())}; names begin {some(list(weights), 4)}"
        )
    if version == 4 and "att.ln_x.weight" in names:
        raise ValueError("these are weights of RWKV 5.0 or 5.1, early forms that are not supported")
    return version


def _rwkv4(weights: Mapping[str, Tensor]) -> RWKV4Config:
    return RWKV4Config()


def _rwkv5(weights: Mapping[str, Tensor]) -> RWKV5Config:
    return RWKV5Config(head_size=size(weights, "att.time_faaaa", 1))


def _rwkv6(weights: Mapping[str, Tensor]) -> RWKV6Config:
    return RWKV6Config(
        head_size=size(weights, "att.time_faaaa", 1),
        mix_rank=size(weights, "att.time_maa_w2", 1),
        decay_rank=size(weights, "att.time_decay_w2", 0),
    )


def _rwkv7(weights: Mapping[str, Tensor]) -> RWKV7Config:
    # a model of one block has no value residual
    has_values = any(name.endswith("att.v2") for name in weights)
    return RWKV7Config(
        head_size=size(weights, "att.r_k", 1),
        decay_rank=size(weights, "att.w2", 0),
        rate_rank=size(weights, "att.a2", 0),
        value_rank=size(weights, "att.v2", 0) if has_values else None,
        gate_rank=size(weights, "att.g2", 0),
    )


_MIXERS = {4: _rwkv4, 5: _rwkv5, 6: _rwkv6, 7: _rwkv7}


def _official_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not any(name.startswith("rwkv.") for name in weights):
        return dict(weights)
    renamed = {}
    for name, tensor in weights.items():
        for theirs, official in _OFFICIAL.items():
            name = name.replace(theirs, official)
        renamed[name] = tensor
    return renamed
