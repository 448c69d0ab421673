"""RWKV-4 against its author's package and transformers, and its official start."""

import math

import pytest
import torch

from ntlib.mixers.rwkv4 import RWKV4Config
from ntlib.mixers.rwkv_channel_mix import ChannelMixConfig
from tests.mixers.rwkv_stack import D_MODEL, LAYERS, VOCABULARY, Stack, relative
from tests.rwkv_peer import rwkv_logits


def stack():
    return Stack(
        [
            (RWKV4Config(layer, LAYERS), ChannelMixConfig(4, layer=layer, n_layers=LAYERS))
            for layer in range(LAYERS)
        ]
    )


def tokens(length, batch=1):
    generator = torch.Generator().manual_seed(length)
    return torch.randint(VOCABULARY, (batch, length), generator=generator)


def test_the_logits_of_the_authors_package():
    model, prompt = stack(), tokens(40)
    steps, whole = rwkv_logits(model.state_dict(), prompt[0].tolist(), version=4)
    with torch.no_grad():
        assert relative(model(prompt)[0], whole) < 1e-4
        assert relative(model.steps(prompt)[0], steps) < 1e-4


def transformers_model(model):
    """transformers' RWKV-4 with our weights, names translated."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed (make test installs it)"
    )
    config = transformers.RwkvConfig(
        vocab_size=VOCABULARY, hidden_size=D_MODEL, num_hidden_layers=LAYERS
    )
    peer = transformers.RwkvForCausalLM(config)
    renamed = {}
    for name, x in model.state_dict().items():
        for ours, theirs in {
            "ln0": "pre_ln",
            "att.": "attention.",
            "ffn.": "feed_forward.",
            "time_mix_k": "time_mix_key",
            "time_mix_v": "time_mix_value",
            "time_mix_r": "time_mix_receptance",
            "emb.": "embeddings.",
        }.items():
            name = name.replace(ours, theirs)
        renamed[name if name == "head.weight" else f"rwkv.{name}"] = x
    peer.load_state_dict(renamed)
    return peer.train()  # eval would halve weights every six layers


def test_logits_and_gradients_of_transformers():
    model, batch = stack(), tokens(17, batch=3)
    peer = transformers_model(model)
    ours, theirs = model(batch), peer(batch).logits
    assert relative(ours, theirs) < 1e-5
    ours.sin().sum().backward()
    theirs.sin().sum().backward()
    gradients = {name: p.grad for name, p in peer.named_parameters()}
    for name, parameter in model.named_parameters():
        for part in (
            "time_decay",
            "time_first",
            "key.weight",
            "output.weight",
            "receptance.weight",
        ):
            if name.endswith(f"att.{part}"):
                other = gradients[f"rwkv.{name.replace('att', 'attention')}"]
                assert relative(parameter.grad, other) < 1e-4, name
    assert relative(model.emb.weight.grad, gradients["rwkv.embeddings.weight"]) < 1e-4


def test_the_official_start():
    first, last = (RWKV4Config(layer, 3).build(4) for layer in (0, 2))
    for mixer in (first, last):
        mixer.reset_parameters(torch.Generator().manual_seed(0))
    # printed by the official formulas: -5 + 8 (n / 3)^(0.7 + 1.3 rho), log 0.3 + zigzag / 2
    assert first.time_decay[[0, 3]].tolist() == [-5, 3]
    assert last.time_decay[1].item() == pytest.approx(-5 + 8 / 9, rel=1e-6)
    assert (first.time_first - math.log(0.3)).tolist() == pytest.approx([0, 0.5, -0.5, 0], abs=1e-6)
    assert first.time_mix_k.flatten().tolist() == [0, 0.25, 0.5, 0.75]
    assert last.time_mix_v[0, 0, 1].item() == pytest.approx(0.25 ** (1 / 3) + 0.3)
    assert last.time_mix_r[0, 0, 1].item() == pytest.approx(0.25 ** (1 / 6))
    for linear in (first.key, first.receptance, first.output):
        assert not linear.weight.any()
    assert torch.allclose(first.value.weight @ first.value.weight.T, torch.eye(4), atol=1e-6)


def test_a_layer_beyond_the_model_is_named():
    with pytest.raises(ValueError, match=r"layer must be in 0 ... n_layers - 1 = 2, got 3"):
        RWKV4Config(3, 3).build(8)
    with pytest.raises(ValueError, match="version must be 4, 5, 6 or 7, got 3"):
        ChannelMixConfig(3).build(8)


@pytest.mark.parametrize(("version", "gain"), [(4, 2.0), (5, 1.0), (6, 1.0), (7, 1.0)])
def test_the_official_start_of_the_channel_mix(version, gain):
    mixer = ChannelMixConfig(version, layer=1, n_layers=4).build(64)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    assert mixer.key.out_features == (256 if version in (4, 7) else 224)
    columns = mixer.key.weight.T @ mixer.key.weight
    assert torch.allclose(columns, gain**2 * torch.eye(64), atol=1e-5)
    eta = 0.75 ** {4: 1, 5: 1, 6: 3, 7: 4}[version]
    mixture = {4: "time_mix_k", 5: "time_mix_k", 6: "time_maa_k", 7: "x_k"}[version]
    current = getattr(mixer, mixture)[0, 0, 16].item()
    assert current == pytest.approx(0.25**eta if version < 6 else 1 - 0.25**eta)
    assert not mixer(torch.ones(1, 3, 64))[0].any()
    assert ("receptance.weight" in mixer.state_dict()) == (version < 7)
