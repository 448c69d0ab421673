"""The language model: steps equal the parallel pass, seeds fix weights, RetNet's released layout
loads."""

from dataclasses import replace

import pytest
import torch

from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.linear_attention import LinearAttentionConfig
from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.models.language_model import LanguageModel, ModelConfig, count_parameters
from ntlib.models.torchscale import load_torchscale
from tests.torchscale_peer import import_torchscale

MIXERS = [AttentionConfig(2), LinearAttentionConfig(2), RetentionConfig(2, chunk_size=4)]
HYBRID = (MambaConfig(d_state=4), AttentionConfig(2))


def model_of(mixer, **changes):
    config = replace(ModelConfig(31, 16, 2, mixer, ffn_dim=24), **changes)
    return LanguageModel(config, torch.Generator().manual_seed(0)).double()


def tokens(*shape):
    return torch.randint(31, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mixer", [*MIXERS, HYBRID], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("ffn_dim", [24, 0])
@torch.no_grad()
def test_prefill_and_steps_continue_each_other(mixer, ffn_dim):
    model, text = model_of(mixer, ffn_dim=ffn_dim), tokens(2, 12)
    whole, _ = model(text)
    logits, states = model(text[:, :5], model.init_states(2, capacity=12))
    assert torch.allclose(logits, whole[:, :5])
    for t in range(5, 12):
        logits, states = model.step(text[:, t], states)
        assert torch.allclose(logits, whole[:, t])
    resumed, _ = model(text[:, 5:], model(text[:, :5])[1])
    assert torch.allclose(resumed, whole[:, 5:])


def test_every_layer_of_a_hybrid_has_its_own_mixer():
    hybrid = model_of(HYBRID)
    assert [block.mixer.config for block in hybrid.blocks] == list(HYBRID)
    named = model_of((MIXERS[2],) * 2).state_dict()
    assert all(torch.equal(w, named[name]) for name, w in model_of(MIXERS[2]).state_dict().items())
    with pytest.raises(ValueError, match="one for each of the n_layers = 3 layers, got 2"):
        model_of(HYBRID, n_layers=3)


def test_a_seed_fixes_the_weights_whatever_the_global_state():
    torch.manual_seed(1)
    first = model_of(MIXERS[2])
    torch.manual_seed(2)
    second = model_of(MIXERS[2])
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_initial_logits_are_small_and_loss_is_that_of_guessing():
    model = model_of(MIXERS[0], d_model=64, ffn_dim=128)
    logits, _ = model(tokens(8, 32))
    assert 0.5 < logits.std() < 2


def test_without_feed_forward_layers_the_mixers_write_alone():
    model = model_of(MIXERS[0], ffn_dim=0)
    assert not [name for name, _ in model.named_parameters() if "ffn" in name]
    # n_layers instead of 2 n_layers write into the residual stream
    wide = [model_of(MIXERS[0], d_model=256, ffn_dim=dim).blocks[0].mixer.o for dim in (0, 24)]
    ratio = (wide[0].weight.std() / wide[1].weight.std()).item()
    assert ratio == pytest.approx(2**0.5, rel=0.02)


def test_tied_embeddings_are_counted_once():
    tied, untied = model_of(MIXERS[0], tied=True), model_of(MIXERS[0])
    assert count_parameters(untied) - count_parameters(tied) == 31 * 16
    assert count_parameters(tied, embeddings=False) == count_parameters(untied, embeddings=False)


def test_bad_input_is_named():
    with pytest.raises(
        ValueError, match=r"tokens must be \(batch, length\), not empty, got \(2, 0\)"
    ):
        model_of(MIXERS[0])(torch.zeros(2, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="ffn must be 'swiglu', 'geglu' or 'gelu', got 'relu'"):
        model_of(MIXERS[0], ffn="relu")


@pytest.fixture(scope="module")
def released():
    """A small RetNet of the released code, its weights and our configuration of it."""
    torchscale = import_torchscale()
    args = torchscale.RetNetConfig(
        decoder_embed_dim=16,
        decoder_value_embed_dim=24,
        decoder_retention_heads=2,
        decoder_ffn_embed_dim=24,
        decoder_layers=2,
        vocab_size=31,
        layernorm_eps=1e-30,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = torchscale.RetNetDecoder(args, torch.nn.Embedding(31, 16)).eval()
    mixer = RetentionConfig(2, value_dim=24, eps=1e-30)
    return decoder, ModelConfig(31, 16, 2, mixer, ffn_dim=24, ffn="geglu", norm_eps=1e-30)


@torch.no_grad()
def test_released_weights_give_the_released_logits(released):
    decoder, config = released
    text = tokens(2, 20)
    ours = load_torchscale(decoder.state_dict(), config)(text)[0]
    theirs = decoder(text)[0]
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_weights_that_do_not_fit_are_listed(released):
    decoder, config = released
    weights = dict(decoder.state_dict())
    weights["layers.0.ffn.extra"] = weights.pop("layers.1.ffn.fc2.weight")
    with pytest.raises(
        ValueError,
        match=r"missing \['layers.1.ffn.fc2.weight'\], unexpected \['layers.0.ffn.extra'\]",
    ):
        load_torchscale(weights, config)
    with pytest.raises(ValueError, match=r"ffn.gate.weight: \(24, 16\) instead of \(32, 16\)"):
        load_torchscale(decoder.state_dict(), replace(config, ffn_dim=32))
