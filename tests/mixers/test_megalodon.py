"""Megalodon against what the official code computes on a CPU, and its parts against definitions."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import golden_megalodon as official
from ntlib.measuring import tensor_bytes
from ntlib.mixers.complex_ema import ComplexEMAConfig
from ntlib.mixers.megalodon import MegalodonConfig
from ntlib.mixers.timestep_norm import TimestepNormConfig
from ntlib.ops.long_conv import FORMS
from tests.mixers.battery import close, sequence, steps
from tests.mixers.test_s4d import case

BLOCK = MegalodonConfig(
    z_dim=official.Z_DIM,
    value_dim=official.VALUE_DIM,
    n_heads=official.HEADS,
    states=official.STATES,
    chunk_size=official.CHUNK,
    norm_groups=official.GROUPS,
    ffn_dim=official.FFN_DIM,
)
CASES = {
    "norm": TimestepNormConfig(official.GROUPS),
    "cema": ComplexEMAConfig(official.STATES),
    "block": BLOCK,
    "block, swiglu": MegalodonConfig(**vars(BLOCK) | {"swiglu": True}),
}


def load(name):
    arrays, weights = case(load_file(official.TARGET), name)
    mixer = CASES[name].build(official.D_MODEL)
    mixer.load_state_dict(weights)
    return mixer, arrays


@pytest.mark.parametrize("name", CASES)
def test_the_official_code(name):
    """Outputs, gradients and steps; the official one computes in float32."""
    mixer, arrays = load(name)
    x = arrays["x"].requires_grad_()
    y, _ = mixer(x)
    assert close(y, arrays["y"], 1e-5)
    weights = dict(mixer.named_parameters())
    grads = torch.autograd.grad(y.sin().sum(), [x, *weights.values()])
    for key, grad in zip(["x", *weights], grads, strict=True):
        assert close(grad, arrays[f"gradient.{key}"], 5e-5), key
    with torch.no_grad():
        assert close(steps(mixer, x)[0], arrays["y"], 1e-5)


@torch.no_grad()
def test_the_official_states():
    norm, arrays = load("norm")
    state = norm(arrays["x"])[1]
    assert close(state.mean, arrays["mean"], 1e-5)
    assert close(state.variance, arrays["variance"], 1e-5)
    assert state.count == official.LENGTH
    average, arrays = load("cema")
    for form in FORMS:
        y, state = average(arrays["x"], form=form)
        assert close(y, arrays["y"], 1e-5)
        assert close(state, arrays["state"], 1e-5)


@torch.no_grad()
def test_the_official_gated_attention_is_what_the_block_contains():
    block, arrays = load("block")
    assert close(block.mega(arrays["x"])[0], arrays["attended"], 1e-5)


@torch.no_grad()
def test_the_timestep_norm_knows_mean_and_variance_of_all_that_it_read():
    """Against the definition, on numbers whose mean is 1000 times their deviation."""
    norm = TimestepNormConfig(3, eps=0).build(24).double()
    x = sequence(17) + 1000
    y, _ = norm(x)
    for t in (0, 5, 16):
        read = x[:, : t + 1].unflatten(-1, (3, 8))
        variance, mean = torch.var_mean(read, dim=(1, 3), correction=0)
        wanted = (read[:, t] - mean[..., None]) / variance[..., None].sqrt()
        assert close(y[:, t], wanted.flatten(1), 1e-10)
    # in float32 the numbers themselves keep 4 digits of their deviation
    assert close(norm.float()(x.float())[0].double(), y, 1e-3)


def test_the_two_hop_residual_adds_the_input_of_the_block():
    block, _ = load("block")
    with torch.no_grad():
        block.nffn.fc2.weight.zero_()
        x = sequence(5, dtype=torch.float32)[..., : official.D_MODEL]
        assert torch.equal(block(x)[0], x)


@torch.no_grad()
def test_a_complex_average_without_angles_is_a_real_one():
    average = ComplexEMAConfig(4).build(24)
    average.reset_parameters(torch.Generator().manual_seed(0))
    average = average.double()
    average.theta.fill_(-1e3)  # sigmoid(theta) = 0
    log_q, p, eta = average.continuous_to_discrete()
    assert not any(part.imag.any() for part in (log_q, p, eta))
    x = sequence(9)
    h, a = torch.zeros(2, 24, 4, dtype=torch.float64), log_q.real.exp()
    for t, x_t in enumerate(x.unbind(1)):
        h = a * h + p.real * x_t[..., None]
        y_t = (eta.real * h).sum(-1) + average.omega[:, 0] * x_t
        assert close(average(x)[0][:, t], y_t, 1e-12)


@torch.no_grad()
def test_the_state_does_not_outgrow_a_chunk():
    config = MegalodonConfig(8, 16, 2, states=4, chunk_size=5, norm_groups=3)
    mixer, x = config.build(24), sequence(23, dtype=torch.float32)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    bound = 2 * 4 * (2 * 24 * 4 + 2 * 3 + 5 * (8 + 16))
    state = mixer.init_state(2)
    for t, x_t in enumerate(x.unbind(1)):
        _, state = mixer.step(x_t, state)
        assert tensor_bytes(state) <= bound
        assert state.cache.length == (t + 1) % 5


def test_initialisation_is_the_published_one():
    mixer = MegalodonConfig(128, n_heads=2, ffn_dim=300).build(512)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    for linear in (mixer.mega.wv, mixer.mega.wh2, mixer.nffn.fc1):
        std = (3 * linear.in_features) ** -0.5  # He with a = sqrt(5)
        assert linear.weight.std().item() == pytest.approx(std, rel=0.05)
    turns, _ = torch.sigmoid(mixer.mega.cema.theta.flatten()).sort()
    assert turns[0].item() == pytest.approx(1 / 512, rel=1e-4)
    assert (turns[1:] / turns[:-1]).std() < 1e-4
    assert not mixer.mega.cema.gamma[..., 1].any()
    assert mixer.mega.cema.omega.abs().max() <= 1
    assert not mixer.mega.gamma.any()


def test_errors_are_named():
    with pytest.raises(ValueError, match=r"groups must divide d_model = 24 .*got 24"):
        TimestepNormConfig(24).build(24)
    with pytest.raises(ValueError, match="n_heads must divide z_dim = 7, got 2"):
        MegalodonConfig(7, n_heads=2).build(32)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        MegalodonConfig(8, chunk_size=0).build(32)
    with pytest.raises(ValueError, match="states must be at least 1, got 0"):
        ComplexEMAConfig(0).build(4)
