"""Mega's gated attention against the official module's numbers, and what its chunks guarantee."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import golden_mega
from ntlib.measuring import tensor_bytes
from ntlib.mixers.mega import MegaConfig, laplace, relu2
from ntlib.mixers.position_bias import RotaryBias, SimpleBias
from tests.mixers.battery import close, sequence, steps
from tests.mixers.test_s4d import case

CAUSAL = [name for name, changes in golden_mega.CASES.items() if "bidirectional" not in changes]
NAMES = {"rel_pos_bias": "position_bias", "attention_activation": "attention", "norm_type": "norm"}


@pytest.fixture(scope="module")
def golden():
    return load_file(golden_mega.TARGET)


def config_of(name):
    """Ours, of an official case."""
    renamed = {NAMES.get(key, key): value for key, value in golden_mega.CASES[name].items()}
    return MegaConfig(
        z_dim=golden_mega.Z_DIM,
        value_dim=golden_mega.VALUE_DIM,
        states=golden_mega.STATES,
        max_positions=golden_mega.MAX_POSITIONS,
        **renamed,
    )


def load(golden, name):
    arrays, weights = case(golden, name)
    mixer = config_of(name).build(golden_mega.D_MODEL)
    inside = {k: v for k, v in weights.items() if k.startswith("mega_layer")}
    mixer.load_state_dict({k.removeprefix("mega_layer."): v for k, v in inside.items()})
    return mixer, arrays


@pytest.mark.parametrize("name", golden_mega.CASES)
def test_the_official_module(golden, name):
    """The official one computes in float32; its names and shapes load as they are."""
    mixer, arrays = load(golden, name)
    assert close(mixer(arrays["x"])[0], arrays["attended"], 1e-5)


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_the_official_steps(golden, name):
    """Steps, and the state of the average and of the chunk that has begun."""
    mixer, arrays = load(golden, name)
    y, _ = steps(mixer.eval(), arrays["x"])
    assert close(y, arrays["steps"], 1e-5)
    _, (ema, cache) = steps(mixer, arrays["x"][:, :10])
    assert close(ema, arrays["ema"], 1e-5)
    assert cache.length == arrays["keys"].shape[1]
    assert close(cache.keys[:, 0, : cache.length], arrays["keys"], 1e-5)


@pytest.mark.parametrize("attention", ["softmax", "laplace", "relu2"])
@torch.no_grad()
def test_one_chunk_is_attention_over_everything(attention):
    torch.manual_seed(0)
    whole = MegaConfig(8, 16, 4, attention, max_positions=13).build(24)
    chunked = MegaConfig(8, 16, 4, attention, chunk_size=13).build(24)
    whole.reset_parameters(torch.Generator().manual_seed(0))
    chunked.load_state_dict(whole.state_dict())
    x = sequence(13, dtype=torch.float32)
    assert torch.equal(whole(x)[0], chunked(x)[0])


def test_only_the_average_crosses_a_chunk():
    """With the average switched off, a token of one chunk does not see the chunk before."""
    mixer = MegaConfig(8, 16, 4, chunk_size=4).build(24)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    x = sequence(8, dtype=torch.float32).requires_grad_()

    def reach():
        (gradient,) = torch.autograd.grad(mixer(x)[0][:, 5].square().sum(), x)
        return gradient.abs().sum((0, 2)) > 0

    assert reach().tolist() == [True] * 6 + [False] * 2
    torch.nn.init.zeros_(mixer.move.gamma)
    assert reach().tolist() == [False] * 4 + [True] * 2 + [False] * 2


def test_without_an_average_nothing_crosses_a_chunk_and_with_s4d_everything():
    def reach(**changes):
        mixer = MegaConfig(8, 16, chunk_size=4, **changes).build(24)
        mixer.reset_parameters(torch.Generator().manual_seed(0))
        x = sequence(8, dtype=torch.float32).requires_grad_()
        (gradient,) = torch.autograd.grad(mixer(x)[0][:, 5].square().sum(), x)
        return (gradient.abs().sum((0, 2)) > 0).tolist()

    assert reach(states=0) == [False] * 4 + [True] * 2 + [False] * 2
    assert reach(states=4, average="s4d") == [True] * 6 + [False] * 2


@torch.no_grad()
def test_the_state_does_not_outgrow_a_chunk():
    config = MegaConfig(8, 16, 4, chunk_size=5)
    mixer, x = config.build(24), sequence(23, dtype=torch.float32)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    bound = 2 * 4 * (24 * 4 + 5 * (8 + 16))
    state = mixer.init_state(2)
    for t, x_t in enumerate(x.unbind(1)):
        _, state = mixer.step(x_t, state)
        assert tensor_bytes(state) <= bound
        assert state.cache.length == (t + 1) % 5
    assert tensor_bytes(mixer(x)[1]) <= bound


def test_a_bidirectional_layer_wants_whole_chunks():
    mixer = MegaConfig(8, 16, 4, chunk_size=4, bidirectional=True).build(24)
    with pytest.raises(ValueError, match=r"must be a multiple of chunk_size = 4.*got 6: pad it"):
        mixer(torch.zeros(1, 6, 24))
    with pytest.raises(ValueError, match="needs the whole sequence: it has no state"):
        mixer(torch.zeros(1, 4, 24), state=())


def test_laplace_meets_relu2_in_value_and_slope():
    """At sqrt(1/2); the paper's appendix says sqrt(2), where they differ by more than 1."""
    s = torch.tensor(0.5**0.5, dtype=torch.float64, requires_grad=True)
    values = [f(s) for f in (laplace, relu2)]
    slopes = [torch.autograd.grad(value, s)[0] for value in values]
    assert values[0].item() == pytest.approx(0.5)
    assert values[1].item() == pytest.approx(0.5)
    assert slopes[0].item() == pytest.approx(2**0.5)
    assert slopes[1].item() == pytest.approx(2**0.5)
    assert relu2(2 * s) - laplace(2 * s) > 1


@torch.no_grad()
def test_biases_depend_on_the_distance():
    for bias in (SimpleBias(9), RotaryBias(4)):
        bias.reset_parameters(torch.Generator().manual_seed(0))
        whole = bias(9, 9)
        assert torch.allclose(whole[1:, 1:], whole[:-1, :-1], atol=1e-7)
        assert torch.allclose(bias(2, 6), whole[4:6, :6], atol=1e-7)
    with pytest.raises(ValueError, match=r"at most max_positions = 9 for a simple.*got 10"):
        SimpleBias(9)(1, 10)


def test_initialisation_is_the_published_one():
    mixer = MegaConfig(128, max_positions=1024).build(256)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    for weight in (
        mixer.v_proj.weight,
        mixer.mx_proj.weight,
        mixer.h_proj.weight,
        mixer.gamma,
        mixer.rel_pos_bias.rel_pos_bias,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not any(p.any() for p in (mixer.beta, mixer.v_proj.bias, mixer.mx_proj.bias))


def test_errors_are_named():
    with pytest.raises(ValueError, match="average must be one of ema, s4d, got 's4'"):
        MegaConfig(average="s4").build(24)
    with pytest.raises(ValueError, match="attention must be one of softmax, laplace, relu2"):
        MegaConfig(attention="relu").build(8)
    with pytest.raises(ValueError, match="position_bias must be one of simple, rotary"):
        MegaConfig(position_bias="rope").build(8)
    with pytest.raises(ValueError, match=r"norm must be one of layernorm, .*got 'group'"):
        MegaConfig(norm="group").build(8)
    with pytest.raises(ValueError, match="chunk_size must be at least 1 or None, got 0"):
        MegaConfig(chunk_size=0).build(8)
    with pytest.raises(ValueError, match="dim must be even"):
        MegaConfig(z_dim=5, position_bias="rotary").build(8)
