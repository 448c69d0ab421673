"""The compiled steps of RWKV's mixers: the same numbers as the steps in torch, whatever became of
the weights in between."""

import copy

import pytest
import torch

from ntlib.mixers.rwkv4 import RWKV4Config
from ntlib.mixers.rwkv5 import RWKV5Config
from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv_channel_mix import ChannelMixConfig
from ntlib.ops.compiled import MOST_SEQUENCES, reference, step_serves
from tests.mixers.battery import build, close, sequence, steps

CONFIGS = {
    "RWKV-4": RWKV4Config(),
    "RWKV-5": RWKV5Config(head_size=8),
    "RWKV-6": RWKV6Config(head_size=8),
    "channel mix": ChannelMixConfig(6),
    "channel mix, old mixture": ChannelMixConfig(4),
    "channel mix, no receptance": ChannelMixConfig(7),
}
each = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def same_as_in_torch(mixer, x):
    with torch.no_grad():
        ours = steps(mixer, x)
        with reference():
            expected = steps(mixer, x)
    return close(ours[0], expected[0], 1e-12 if x.dtype == torch.float64 else 1e-5)


@each
@pytest.mark.parametrize("batch", [1, MOST_SEQUENCES])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_same_numbers(config, batch, dtype):
    assert same_as_in_torch(build(config, dtype), sequence(5, batch=batch, dtype=dtype))


@each
def test_new_weights_are_seen(config):
    mixer, other, x = build(config), build(config), sequence(3)
    assert same_as_in_torch(mixer, x)
    with torch.no_grad():
        for parameter in mixer.parameters():  # in place, as an optimiser does
            parameter.mul_(0.9)
    assert same_as_in_torch(mixer, x)
    mixer.load_state_dict(other.state_dict(), assign=True)
    assert same_as_in_torch(mixer, x)
    assert same_as_in_torch(mixer.float(), x.float())
    copied = copy.deepcopy(mixer)  # has weights of its own
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(0.9)
    assert same_as_in_torch(copied, x.float())
    assert same_as_in_torch(mixer, x.float())


@each
def test_strided_weights_are_read_right(config):
    mixer = build(config)
    for linear in (mixer.key, mixer.value):
        linear.weight.data = linear.weight.data.T.contiguous().T
    assert same_as_in_torch(mixer, sequence(3))


def test_when_a_step_is_compiled():
    few, many = torch.zeros(1, 8), torch.zeros(MOST_SEQUENCES + 1, 8)
    assert not step_serves(few)  # gradients might be wanted
    with torch.no_grad():
        assert step_serves(few)
        assert not step_serves(many)
        assert not step_serves(few.bfloat16())
        with reference():
            assert not step_serves(few)
