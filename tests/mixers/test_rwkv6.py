"""RWKV-6 against its author's package, and its official start."""

import pytest
import torch

from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv_channel_mix import ChannelMixConfig
from tests.mixers.rwkv_stack import LAYERS, VOCABULARY, Stack, relative
from tests.rwkv_peer import rwkv_logits


def stack():
    return Stack(
        [
            (
                RWKV6Config(layer=layer, n_layers=LAYERS),
                ChannelMixConfig(6, layer=layer, n_layers=LAYERS),
            )
            for layer in range(LAYERS)
        ]
    )


def test_the_logits_of_the_authors_package():
    model = stack()
    prompt = torch.randint(VOCABULARY, (1, 40), generator=torch.Generator().manual_seed(0))
    steps, whole = rwkv_logits(model.state_dict(), prompt[0].tolist(), version=6)
    with torch.no_grad():
        assert relative(model(prompt)[0], whole) < 1e-4
        assert relative(model.steps(prompt)[0], steps) < 1e-4


def test_shapes_of_the_official_checkpoints():
    shapes = {name: tuple(x.shape) for name, x in RWKV6Config().build(128).state_dict().items()}
    assert shapes == {
        **{f"time_maa_{name}": (1, 1, 128) for name in "xwkvrg"},
        "time_maa_w1": (128, 160),
        "time_maa_w2": (5, 32, 128),
        "time_decay": (1, 1, 128),
        "time_decay_w1": (128, 64),
        "time_decay_w2": (64, 128),
        "time_faaaa": (2, 64),
        **{f"{n}.weight": (128, 128) for n in ("receptance", "key", "value", "gate", "output")},
        "ln_x.weight": (128,),
        "ln_x.bias": (128,),
    }


def test_the_official_start():
    first, last = (RWKV6Config(head_size=4, layer=layer, n_layers=3).build(8) for layer in (0, 2))
    for mixer in (first, last):
        mixer.reset_parameters(torch.Generator().manual_seed(0))
    # the official formulas by hand; rho = 0 and 1, eta = 1 and 1/3
    assert first.time_decay.flatten()[[0, 7]].tolist() == [-6, -1]
    assert last.time_decay[0, 0, 1].item() == pytest.approx(-6 + 5 / 49, rel=1e-6)
    assert last.time_faaaa[1, 3].item() == pytest.approx(0.1, rel=1e-5)
    assert first.time_maa_x[0, 0, 2].item() == 0.75
    assert torch.equal(first.time_maa_x, first.time_maa_w)
    assert last.time_maa_v[0, 0, 1].item() == pytest.approx(1 - (0.5 + 0.3), rel=1e-5)
    assert last.time_maa_g[0, 0, 1].item() == pytest.approx(1 - 0.125 ** (1 / 6))
    for zero in (first.time_maa_w1, first.time_decay_w1, first.output.weight):
        assert not zero.any()
    for small in (first.time_maa_w2, first.time_decay_w2):
        assert 0.005 < small.abs().max() <= 0.01
    assert not first(torch.ones(1, 3, 8))[0].any()
