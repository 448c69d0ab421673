"""Weights in the layout of RetNet's released code (microsoft/torchscale, architecture/retnet.py)
into our language model.

Its feed-forward layer is fc2(gelu(fc1 x) * gate x): what it calls fc1 is the gate here, and its
gate the up-projection.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ntlib.models.language_model import LanguageModel, ModelConfig

_BLOCK = {
    "retention.out_proj.weight": "mixer.o.weight",
    "retention_layer_norm.weight": "mixer_norm.weight",
    "final_layer_norm.weight": "ffn_norm.weight",
    "ffn.fc1.weight": "ffn.gate.weight",
    "ffn.gate.weight": "ffn.up.weight",
    "ffn.fc2.weight": "ffn.down.weight",
}
_STACKED = [f"retention.{letter}_proj.weight" for letter in "qkvg"]
_OUTER = {
    "embed_tokens.weight": "embedding.weight",
    "layer_norm.weight": "norm.weight",
    "output_projection.weight": "head.weight",
}
_BUFFERS = {
    "retnet_rel_pos.angle",
    "retnet_rel_pos.decay",
}  # constants that our mixer computes itself


def load_torchscale(weights: Mapping[str, Tensor], config: ModelConfig) -> LanguageModel:
    """A model with these weights.

    Raises ValueError that lists missing and unexpected names, and wrong shapes.
    """
    expected = set(_OUTER) | {
        f"layers.{i}.{name}" for i in range(config.n_layers) for name in [*_BLOCK, *_STACKED]
    }
    missing, unexpected = (
        sorted(expected - set(weights)),
        sorted(set(weights) - expected - _BUFFERS),
    )
    if missing or unexpected:
        raise ValueError(
            f"weights do not fit a RetNet of {config.n_layers} layers: "
            f"missing {missing}, unexpected {unexpected}"
        )
    state = {ours: weights[theirs] for theirs, ours in _OUTER.items()}
    for i in range(config.n_layers):
        state |= {
            f"blocks.{i}.{ours}": weights[f"layers.{i}.{theirs}"] for theirs, ours in _BLOCK.items()
        }
        state[f"blocks.{i}.mixer.qkvg.weight"] = torch.cat(
            [weights[f"layers.{i}.{name}"] for name in _STACKED]
        )
    with torch.device("meta"):
        model = LanguageModel(config)
    _check_shapes(state, model)
    model.load_state_dict(state, assign=True)
    return model


def _check_shapes(state: Mapping[str, Tensor], model: LanguageModel) -> None:
    wanted = model.state_dict()
    wrong = [
        f"{name}: {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
        for name, tensor in state.items()
        if tensor.shape != wanted[name].shape
    ]
    if wrong:
        raise ValueError(
            "weights have other shapes than the configuration says: " + "; ".join(wrong)
        )
