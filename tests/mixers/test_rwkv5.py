"""RWKV-5 against its author's package, and its official start."""

import pytest
import torch

from ntlib.mixers.rwkv5 import RWKV5Config
from ntlib.mixers.rwkv_channel_mix import ChannelMixConfig
from tests.mixers.rwkv_stack import LAYERS, VOCABULARY, Stack, relative
from tests.rwkv_peer import rwkv_logits


def stack():
    return Stack(
        [
            (
                RWKV5Config(layer=layer, n_layers=LAYERS),
                ChannelMixConfig(5, layer=layer, n_layers=LAYERS),
            )
            for layer in range(LAYERS)
        ]
    )


def test_the_logits_of_the_authors_package():
    model = stack()
    prompt = torch.randint(VOCABULARY, (1, 40), generator=torch.Generator().manual_seed(0))
    steps, whole = rwkv_logits(model.state_dict(), prompt[0].tolist(), version=5)
    with torch.no_grad():
        assert relative(model(prompt)[0], whole) < 1e-4
        assert relative(model.steps(prompt)[0], steps) < 1e-4


def test_the_official_start():
    first, last = (RWKV5Config(head_size=4, layer=layer, n_layers=3).build(8) for layer in (0, 2))
    for mixer in (first, last):
        mixer.reset_parameters(torch.Generator().manual_seed(0))
    # the official formulas by hand; rho = 0 and 1, eta = 1 and 1/3
    assert first.time_decay.shape == first.time_faaaa.shape == (2, 4)
    assert first.time_decay.flatten()[[0, 7]].tolist() == [-6, -1]
    assert last.time_decay[0, 1].item() == pytest.approx(-6 + 5 / 49, rel=1e-6)
    assert first.time_faaaa[0].tolist() == pytest.approx([0, 0.1, -0.1, 0], abs=1e-6)
    assert last.time_faaaa[1, 3].item() == pytest.approx(0.1, rel=1e-5)
    assert first.time_mix_k[0, 0, 2].item() == 0.25
    assert last.time_mix_v[0, 0, 1].item() == pytest.approx(0.5 + 0.3)
    assert last.time_mix_g[0, 0, 1].item() == pytest.approx(0.125 ** (1 / 6))
    assert torch.equal(last.time_mix_g, last.time_mix_r)
    assert not first.output.weight.any()
    for linear, gain in ((first.value, 1), (first.key, 0.1), (first.gate, 0.1)):
        square = linear.weight @ linear.weight.T
        assert torch.allclose(square, gain**2 * torch.eye(8), atol=1e-6)
    assert last.ln_x.weight.tolist() == [1] * 8
    assert first.ln_x.weight.tolist() == pytest.approx([(1 / 3) ** 0.7] * 8)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="head_size must divide d_model = 100, got 64"):
        RWKV5Config().build(100)
    with pytest.raises(ValueError, match=r"layer must be in 0 ... n_layers - 1 = 0, got 1"):
        RWKV5Config(layer=1).build(64)
