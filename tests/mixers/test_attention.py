"""Attention against transformers' Llama on shared weights, and the cache's own promises."""

from dataclasses import replace

import pytest
import torch

from ntlib.mixers.attention import AttentionConfig
from ntlib.models.language_model import LanguageModel, ModelConfig
from ntlib.ops.rotary import rotary_frequencies, rotary_turns, rotate, xpos_scales


def halves_from_pairs(weight, n_heads):
    """Rows in transformers' order: it rotates channel j with j + d/2, we rotate neighbours."""
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@torch.no_grad()
def test_logits_equal_those_of_llama(n_kv_heads):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed (make test installs it)"
    )
    config = ModelConfig(97, 32, 2, AttentionConfig(4, n_kv_heads), ffn_dim=48)
    ours = LanguageModel(config, torch.Generator().manual_seed(0)).double()
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=97,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=n_kv_heads,
            rms_norm_eps=1e-6,
            attn_implementation="eager",
        )
    ).double()
    names = {
        "embedding.weight": "model.embed_tokens.weight",
        "norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    }
    for i in range(2):
        ours_i, theirs_i = f"blocks.{i}.", f"model.layers.{i}."
        names |= {
            ours_i + f"mixer.{p}.weight": theirs_i + f"self_attn.{p}_proj.weight" for p in "qkvo"
        }
        names |= {
            ours_i + f"ffn.{p}.weight": theirs_i + f"mlp.{p}_proj.weight"
            for p in ("up", "gate", "down")
        }
        names[ours_i + "mixer_norm.weight"] = theirs_i + "input_layernorm.weight"
        names[ours_i + "ffn_norm.weight"] = theirs_i + "post_attention_layernorm.weight"
    weights = {names[name]: tensor for name, tensor in ours.state_dict().items()}
    for name in weights:
        if "q_proj" in name or "k_proj" in name:
            weights[name] = halves_from_pairs(weights[name], 4 if "q_proj" in name else n_kv_heads)
    theirs.load_state_dict(weights)
    tokens = torch.randint(97, (2, 21), generator=torch.Generator().manual_seed(1))
    difference = (ours(tokens)[0] - theirs(tokens).logits).abs().max() / theirs(
        tokens
    ).logits.abs().max()
    assert difference < 1e-5  # they compute the angles in float32


@torch.no_grad()
def test_the_cache_is_as_large_as_its_tokens():
    mixer = AttentionConfig(4, n_kv_heads=2).build(32)
    cache = mixer.init_state(3, capacity=100)
    assert cache.keys.shape == (3, 2, 100, 8)
    assert cache.length == 0
    _, cache = mixer(torch.zeros(3, 7, 32), cache)
    assert cache.length == 7
    assert cache.keys.shape[2] == 100


@torch.no_grad()
def test_a_preallocated_cache_is_written_in_place():
    mixer = AttentionConfig(4).build(32)
    before = mixer.init_state(1, capacity=4)
    _, after = mixer.step(torch.ones(1, 32), before)
    assert after.keys.data_ptr() == before.keys.data_ptr()
    for _ in range(4):
        _, after = mixer.step(torch.ones(1, 32), after)
    assert after.length == 5
    assert after.keys.shape[2] == 8


def test_bad_configurations_are_named():
    with pytest.raises(ValueError, match="n_kv_heads must divide n_heads = 4, got 3"):
        AttentionConfig(4, n_kv_heads=3).build(32)
    with pytest.raises(ValueError, match="window must be at least 1 or None, got 0"):
        AttentionConfig(4, window=0).build(32)
    with pytest.raises(ValueError, match="stride must be at least 1 or None, got 0"):
        AttentionConfig(4, stride=0).build(32)
    with pytest.raises(ValueError, match="window must be None where there is a stride"):
        AttentionConfig(4, window=2, stride=2).build(32)
    with pytest.raises(ValueError, match="must be even with a stride, got 4 and 1"):
        AttentionConfig(4, n_kv_heads=1, stride=2).build(32)


@torch.no_grad()
def test_a_window_bounds_the_cache():
    mixer = AttentionConfig(4, window=5).build(32)
    for capacity in (0, 3, 100):
        cache = mixer.init_state(1, capacity)
        for _ in range(17):
            _, cache = mixer.step(torch.ones(1, 32), cache)
            assert cache.keys.shape[2] <= 5
        assert cache.length == 17
    _, cache = mixer(torch.ones(1, 40, 32))
    assert cache.keys.shape[2] == 5


@torch.no_grad()
def test_a_long_window_changes_nothing():
    x = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(1))
    outputs = []
    for window in (None, 30):
        mixer = AttentionConfig(4, window=window).build(32)
        mixer.reset_parameters(torch.Generator().manual_seed(0))
        outputs.append(mixer(x)[0])
    assert (outputs[0] - outputs[1]).abs().max() < 1e-6


def test_steps_with_gradients_go_around_the_ring():
    mixer = AttentionConfig(4, n_kv_heads=2, window=3).build(32)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    x = torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(1))
    state, outputs = mixer.init_state(2), []
    for x_t in x.unbind(1):
        y_t, state = mixer.step(x_t, state)
        outputs.append(y_t)
    assert (torch.stack(outputs, dim=1) - mixer(x)[0]).abs().max() < 1e-5


def test_xpos_is_torchscales():
    """On shared queries and keys, up to rounding: torchscale counts positions from the middle."""
    xpos = pytest.importorskip("torchscale.component.xpos_relative_position").XPOS(16)
    q, k = torch.randn(2, 1, 300, 16, generator=torch.Generator().manual_seed(0))
    theirs = xpos(q) @ xpos(k, downscale=True).mT
    turns, scales = rotary_turns(rotary_frequencies(16), 0, 300), xpos_scales(16, 512.0, 0, 300)
    ours = rotate(q, turns * scales) @ rotate(k, turns / scales).mT
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_absolute_positions_are_those_of_the_transformer():
    config = AttentionConfig(4, rope_base=None)
    plain, absolute = config.build(16), replace(config, absolute=True).build(16)
    absolute.load_state_dict(plain.state_dict())
    n, i = torch.arange(9.0)[:, None], torch.arange(8)
    angles = n / 10000 ** (2 * i / 16)
    waves = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(absolute(x)[0], plain(x + waves)[0])


def test_absolute_positions_exclude_turns():
    with pytest.raises(ValueError, match="rope_base must be None with absolute, got 10000"):
        AttentionConfig(4, absolute=True).build(16)


def test_xpos_needs_turns():
    with pytest.raises(ValueError, match="rope_base"):
        AttentionConfig(4, rope_base=None, xpos_base=512.0).build(16)
