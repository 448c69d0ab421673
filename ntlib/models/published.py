"""A published model from a file: which family it is of is told by the names of its tensors."""

from pathlib import Path

import torch

from ntlib.models import mamba_config, mamba_weights, rwkv_weights
from ntlib.models.language_model import ModelConfig
from ntlib.models.protocol import Model
from ntlib.models.weight_files import read_json, read_tensors
from ntlib.models.weight_layout import some


def load_published(path: Path, dtype: torch.dtype | None = None) -> Model:
    """The model in a file of torch.save or safetensors, or in the several that an index lists; its
    tensors are mapped from the file, or converted to `dtype`.

    RWKV 4, 5.2, 6 and 7, Mamba and Mamba-2, as their authors release them or as transformers saves
    them. Raises ValueError that says what is wrong with the file.
    """
    weights = read_tensors(path)
    families = {name.partition(".")[0] for name in weights}
    try:
        if "backbone" in families:
            return mamba_weights.from_tensors(weights, _config_beside(path), dtype)
        if families & {"emb", "blocks", "rwkv"}:
            return rwkv_weights.from_tensors(weights, dtype)
        raise ValueError(
            f"these are neither RWKV's nor Mamba's weights: names begin {some(list(weights), 4)}"
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _config_beside(path: Path) -> ModelConfig | None:
    """What config.json in the folder of the weights says, if there is one."""
    config = path.with_name("config.json")
    if not config.is_file():
        return None
    try:
        return mamba_config.from_json(read_json(config))
    except ValueError as error:
        raise ValueError(f"config.json beside it does not serve: {error}") from None
