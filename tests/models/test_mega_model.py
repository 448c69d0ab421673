"""Mega models: a block against the official one, steps against the parallel pass, small sizes."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import golden_mega
from ntlib.models import presets
from ntlib.models.generation import Sampling, generate
from ntlib.models.language_model import count_parameters
from ntlib.models.mega import Block, MegaModelConfig
from tests.mixers.battery import close
from tests.mixers.test_mega import config_of
from tests.mixers.test_s4d import case

SMALL = ("Mega", "Mega-chunk", "Mega-chunk (no EMA)", "Mega-chunk (S4D)")


@pytest.mark.parametrize("name", golden_mega.CASES)
def test_the_official_block(name):
    """Outputs and all gradients; the official one computes in float32."""
    arrays, weights = case(load_file(golden_mega.TARGET), name)
    config = MegaModelConfig(2, golden_mega.D_MODEL, 1, config_of(name), golden_mega.FFN_DIM)
    block = Block(config)
    block.load_state_dict(weights)
    x = arrays["x"].requires_grad_()
    y, _ = block(x)
    assert close(y, arrays["y"], 1e-5)
    parameters = dict(block.named_parameters())
    grads = torch.autograd.grad(y.sin().sum(), [x, *parameters.values()])
    for key, grad in zip(["x", *parameters], grads, strict=True):
        theirs = arrays[f"gradient.{key}"]
        # a bias that a batch norm takes away again has a gradient of rounding errors
        assert close(grad, theirs, 5e-5) or max(grad.abs().max(), theirs.abs().max()) < 1e-5, key


@torch.no_grad()
def test_batch_norm_uses_what_it_learned_when_it_is_evaluated():
    (name,) = (k for k, v in golden_mega.CASES.items() if v.get("norm_type") == "batchnorm")
    arrays, weights = case(load_file(golden_mega.TARGET), name)
    config = MegaModelConfig(2, golden_mega.D_MODEL, 1, config_of(name), golden_mega.FFN_DIM)
    block = Block(config).eval()
    block.load_state_dict(weights)
    assert close(block(arrays["x"])[0], arrays["eval"], 1e-5)


def small(name, **changes):
    model = replace(presets.small(name, vocab_size=31), **changes)
    return model.build(torch.Generator().manual_seed(0)).double()


def tokens(*shape):
    return torch.randint(31, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("prenorm", [True, False])
@torch.no_grad()
def test_prefill_and_steps_continue_each_other(name, prenorm):
    mixer = presets.small(name, 31).mixer
    chunk_size = mixer.chunk_size and 4
    model = small(name, mixer=replace(mixer, chunk_size=chunk_size, prenorm=prenorm))
    text = tokens(2, 14)
    whole, _ = model(text)
    logits, states = model(text[:, :6], model.init_states(2, capacity=14))
    assert torch.allclose(logits, whole[:, :6])
    for t in range(6, 14):
        logits, states = model.step(text[:, t], states)
        assert torch.allclose(logits, whole[:, t])


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_generation_is_repeated_full_passes(name):
    """Over more than one chunk."""
    model, text = small(name), tokens(2, 30)
    for _ in range(8):
        text = torch.cat([text, model(text)[0][:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generate(model, text[:, :30], 8, Sampling(temperature=0)), text[:, 30:])


@pytest.mark.parametrize("name", SMALL)
def test_small_models_have_the_parameters_of_the_transformer(name):
    for vocab_size in (31, 256):
        rival = presets.small("Transformer", vocab_size).build()
        ratio = count_parameters(small(name, vocab_size=vocab_size)) / count_parameters(rival)
        assert abs(ratio - 1) < 0.005


def test_a_seed_fixes_the_weights_whatever_the_global_state():
    torch.manual_seed(1)
    first = small("Mega")
    torch.manual_seed(2)
    second = small("Mega")
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


@torch.no_grad()
def test_initial_logits_are_small_and_shared_tables_are_counted_once():
    model = small("Mega")
    assert 0.3 < model(tokens(8, 32))[0].std() < 2
    assert count_parameters(model) - count_parameters(small("Mega", tied=True)) == 31 * 64


def test_errors_are_named():
    with pytest.raises(ValueError, match=r"tokens must be \(batch, length\), not empty"):
        small("Mega")(torch.zeros(2, 0, dtype=torch.long))
    mixer = replace(presets.small("Mega", 31).mixer, bidirectional=True)
    with pytest.raises(ValueError, match="mixer must be causal in a language model"):
        small("Mega", mixer=mixer)
    with pytest.raises(ValueError, match=r"architecture must be one of .*Mega-chunk.*got 'mega'"):
        presets.small("mega", 31)
