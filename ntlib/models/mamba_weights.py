"""Published Mamba and Mamba-2 weights into ntlib.models.language_model.

Two layouts: the authors' (`pytorch_model.bin` of mamba_ssm) and that of transformers ("-hf"), which
differ in the name of the embedding. Our mixers carry the published names; the skeleton around them
has others: see `_PUBLISHED`. Most models share embedding and head, and then the head may be in the
file, too, or not.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ntlib.mixers.mamba import MambaConfig
from ntlib.models import mamba_config
from ntlib.models.language_model import LanguageModel, ModelConfig
from ntlib.models.mamba_config import EMBEDDING, LAYERS
from ntlib.models.weight_layout import check_numbers, count_blocks, fill

HEAD = "lm_head.weight"
# beginnings of our names -> those of the authors
_PUBLISHED = {
    "embedding.": "backbone.embedding.",
    "blocks.": LAYERS,
    "norm.": "backbone.norm_f.",
    "head.": "lm_head.",
}


def from_tensors(
    weights: Mapping[str, Tensor],
    config: ModelConfig | None = None,
    dtype: torch.dtype | None = None,
) -> LanguageModel:
    """A model that holds these tensors; without `dtype` in the widest type that occurs, without
    `config` (see mamba_config.from_json) of the sizes that they tell.

    Raises ValueError if they do not tell all sizes, and one that lists all names that are missing
    or unexpected and all shapes that are wrong.
    """
    weights = {name.replace(".embeddings.", ".embedding."): x for name, x in weights.items()}
    check_numbers(weights)
    if config is None:
        config = mamba_config.from_tensors(weights, tied=_one_table(weights))
    if config.n_layers != (layers := count_blocks(weights, LAYERS)):
        raise ValueError(f"the model has {config.n_layers} layers, the file {layers}")
    if config.tied:
        if not _one_table(weights):
            raise ValueError(f"the model shares embedding and head, but in the file {HEAD} differs")
        weights.pop(HEAD, None)
    with torch.device("meta"):
        model = LanguageModel(config)
    kind = "Mamba" if isinstance(config.mixer, MambaConfig) else "Mamba-2"
    kind = f"a {kind} of {config.n_layers} layers, width {config.d_model}"
    fill(model, weights, kind, dtype, _published)
    if config.tied:
        model.head.weight = model.embedding.weight
    return model


def _one_table(weights: Mapping[str, Tensor]) -> bool:
    """Whether embedding and head are the same."""
    head, table = weights.get(HEAD), weights.get(EMBEDDING)
    if head is None or table is None:
        return head is None
    return head.data_ptr() == table.data_ptr() or torch.equal(head, table)


def _published(name: str) -> str:
    """Our name of a parameter -> that of the authors."""
    begin = next(begin for begin in _PUBLISHED if name.startswith(begin))
    return (_PUBLISHED[begin] + name.removeprefix(begin)).replace(".mixer_norm.", ".norm.")
