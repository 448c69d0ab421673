"""The committed logits of the released RetNet: still what torchscale says, and what we say."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import golden_retnet
from ntlib.mixers.retention import RetentionConfig
from ntlib.models.language_model import ModelConfig
from ntlib.models.torchscale import load_torchscale


@pytest.fixture(scope="module")
def kept():
    return load_file(golden_retnet.TARGET)


def test_torchscale_still_says_the_same(kept):
    made = golden_retnet.golden()
    assert made.keys() == kept.keys()
    for name, tensor in made.items():
        assert torch.allclose(tensor, kept[name], rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("mode", ["parallel", "recurrent", "chunkwise"])
@torch.no_grad()
def test_our_logits_equal_theirs(kept, mode):
    sizes = golden_retnet.SIZES
    mixer = RetentionConfig(sizes["heads"], value_dim=sizes["value_width"], eps=1e-30)
    config = ModelConfig(
        sizes["vocabulary"],
        sizes["d_model"],
        sizes["layers"],
        mixer,
        sizes["ffn"],
        "geglu",
        norm_eps=1e-30,
    )
    weights = {name.removeprefix("weights."): w for name, w in kept.items() if "weights." in name}
    logits = load_torchscale(weights, config)(kept["tokens"])[0]
    theirs = kept[f"logits.{mode}.no_eps"]
    assert (logits - theirs).abs().max() < 1e-4 * theirs.abs().max()
