"""Bits of states and tasks, bounds that exhaustive search respects, memories without training."""

import itertools
from math import log2

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntlib import capacity
from ntlib.measuring.memory import tensor_bytes
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.models.language_model import ModelConfig


@pytest.mark.parametrize("mixer", [AttentionConfig(2), RetentionConfig(2)])
def test_bits_of_a_state_are_those_of_its_tensors(mixer):
    config = ModelConfig(11, 16, 2, mixer, ffn_dim=24)
    states = config.build()(torch.zeros(1, 7, dtype=torch.int64))[1]
    assert capacity.state_bits(config, context=7) == 8 * tensor_bytes(states)


def test_bits_of_tasks():
    assert capacity.copying_bits(300, 26) == pytest.approx(1410.13, abs=0.01)
    assert capacity.recall_bits(64, 4096) == 768
    assert capacity.recall_bits(3, 5, repeated=False) == pytest.approx(log2(5 * 4 * 3))
    assert capacity.recall_bits(5, 5, repeated=False) == pytest.approx(log2(120))
    with pytest.raises(ValueError, match=r"pairs must be at most values = 5 .* got 6"):
        capacity.recall_bits(6, 5, repeated=False)


def best_accuracies(length, symbols, states):
    """Of all ways to map every string to one of `states` and to say one string for each: the best
    share of strings and the best share of tokens, each for itself."""
    strings = list(itertools.product(range(symbols), repeat=length))
    whole, tokens = 0.0, 0.0
    for said in itertools.combinations(strings, states):
        whole = max(whole, sum(string in said for string in strings))
        # a string is mapped to the state whose answer is nearest
        tokens = max(
            tokens,
            sum(max(sum(map(int.__eq__, s, t)) for t in said) for s in strings),
        )
    return whole / len(strings), tokens / len(strings) / length


@pytest.mark.parametrize(
    ("length", "symbols", "states"), [(2, 2, 2), (3, 2, 2), (4, 2, 4), (2, 3, 3), (2, 4, 2)]
)
def test_no_encoder_beats_the_bounds(length, symbols, states):
    bits, needed = log2(states), capacity.copying_bits(length, symbols)
    whole, tokens = best_accuracies(length, symbols, states)
    assert whole == pytest.approx(capacity.string_accuracy_bound(bits, needed))
    assert tokens <= capacity.token_accuracy_bound(bits, needed, length, symbols) + 1e-9


@given(bits=st.floats(0, 200), count=st.integers(1, 50), symbols=st.integers(2, 1000))
def test_the_bound_and_the_bits_are_inverse(bits, count, symbols):
    needed = capacity.copying_bits(count, symbols)
    accuracy = capacity.token_accuracy_bound(bits, needed, count, symbols)
    assert 1 / symbols - 1e-9 <= accuracy <= 1
    held = capacity.demonstrated_bits(accuracy, needed, count, symbols)
    assert held == pytest.approx(min(bits, needed), abs=1e-4)


def test_the_ends_of_the_bounds():
    assert capacity.string_accuracy_bound(9, 10) == 0.5
    assert capacity.string_accuracy_bound(11, 10) == 1
    assert capacity.token_accuracy_bound(768, 768, 64, 4096) == 1
    assert capacity.token_accuracy_bound(0, 768, 64, 4096) == pytest.approx(1 / 4096)
    assert capacity.demonstrated_bits(1.0, 768, 64, 4096) == 768
    assert capacity.demonstrated_bits(0.0, 768, 64, 4096) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="accuracy must be in"):
        capacity.demonstrated_bits(1.1, 768, 64, 4096)
    with pytest.raises(ValueError, match="symbols must be at least 2, count at least 1"):
        capacity.token_accuracy_bound(1, 1, 0, 4)


def test_orthogonal_keys_do_not_interfere():
    generator = torch.Generator().manual_seed(0)
    keys = torch.linalg.qr(torch.randn(3, 8, 8, generator=generator)).Q
    values = torch.randn(3, 8, 5, generator=generator)
    for memory in (capacity.outer_products, capacity.delta, capacity.cache):
        torch.testing.assert_close(memory(keys, values, keys), values, atol=1e-5, rtol=0)
    # with decay, the value written n steps before the end has shrunk by decay^n
    faded = capacity.outer_products(keys, values, keys, decay=0.5)
    scale = 0.5 ** torch.arange(7, -1, -1.0)[:, None]
    torch.testing.assert_close(faded, scale * values, atol=1e-5, rtol=0)


def test_a_key_written_again():
    key = torch.tensor([[[0.6, 0.8]]]).expand(1, 2, 2)
    values = torch.tensor([[[1.0], [5.0]]])
    asked = key[:, :1]
    assert capacity.outer_products(key, values, asked).item() == pytest.approx(6)
    assert capacity.delta(key, values, asked).item() == pytest.approx(5)
    assert capacity.cache(key, values, asked).item() == 5


def test_interference():
    frame = capacity.interference([8, 32], [4, 32, 128], repeats=20)
    assert list(frame) == list(capacity.INTERFERENCE_COLUMNS)
    assert len(frame) == 4 * 2 * 3 * 20
    mean = frame.groupby(["memory", "key_dim", "pairs"]).accuracy.mean()
    assert (mean["KV cache"] == 1).all()
    for memory in set(capacity.MEMORIES) - {"KV cache"}:
        assert mean[memory][32].is_monotonic_decreasing
        assert (mean[memory][32][[32, 128]] > mean[memory][8][[32, 128]]).all()
    # an independent computation of the same experiment, rounded to a hundredth
    expected = {"outer products": 0.63, "with decay 0.95": 0.21, "delta rule": 0.24}
    for memory, value in expected.items():
        assert mean[memory][32][128] == pytest.approx(value, abs=0.03)


def test_interference_is_seeded():
    first, again, other = (capacity.interference([8], [16], seed=seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_only_replacing_and_keeping_survive_rewriting():
    frame = capacity.interference([32], [8], writes=3)
    mean = frame.groupby("memory").accuracy.mean()
    assert mean["KV cache"] == 1
    assert mean["delta rule"] > 0.9
    assert mean["outer products"] < 0.5
