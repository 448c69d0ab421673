"""The committed logits of RWKV's author's package: still what it says, and what we say."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import golden_rwkv
from ntlib.models.rwkv import RWKVConfig


@pytest.fixture(scope="module")
def kept():
    return load_file(golden_rwkv.TARGET)


def close(a, b):
    return (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_the_package_still_says_the_same(kept):
    made = golden_rwkv.golden()
    assert made.keys() == kept.keys()
    for name, tensor in made.items():
        assert close(tensor.double(), kept[name].double()), name


@pytest.mark.parametrize("number", golden_rwkv.MIXERS)
@torch.no_grad()
def test_our_logits_equal_theirs(kept, number):
    model = RWKVConfig(mixer=golden_rwkv.MIXERS[number], **golden_rwkv.SIZES).build()
    model.load_state_dict(golden_rwkv.weights(number))
    tokens, states, steps = kept["tokens"][None], model.init_states(1), []
    for token in tokens.unbind(1):
        logits, states = model.step(token, states)
        steps.append(logits[0])
    assert close(model(tokens)[0][0], kept[f"logits.{number}.prompt"])
    assert close(torch.stack(steps), kept[f"logits.{number}.steps"])
