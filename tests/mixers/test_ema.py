"""Mega's moving average against the official module's numbers, in one direction and in both."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import golden_mega_ema
from ntlib.mixers.ema import DampedEMAConfig
from ntlib.ops.long_conv import FORMS
from ntlib.ops.state_space import ema_kernel
from tests.mixers.battery import close, sequence, steps
from tests.mixers.test_s4d import case


def load(name):
    arrays, weights = case(load_file(golden_mega_ema.TARGET), name)
    config = DampedEMAConfig(golden_mega_ema.STATES, bidirectional=name == "two-sided")
    mixer = config.build(golden_mega_ema.D_MODEL)
    mixer.load_state_dict(weights)
    return mixer, arrays


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["one-sided", "two-sided"])
def test_the_official_module(name, form):
    """Outputs and all gradients; the official one computes in float32."""
    mixer, arrays = load(name)
    x = arrays["x"].requires_grad_()
    y, _ = mixer(x, form=form)
    assert close(y, arrays["y"], 1e-5)
    weights = dict(mixer.named_parameters())
    grads = torch.autograd.grad(y.sin().sum(), [x, *weights.values()])
    for key, grad in zip(["x", *weights], grads, strict=True):
        assert close(grad, arrays[f"gradient.{key}"], 2e-5), key


@torch.no_grad()
def test_the_official_steps():
    mixer, arrays = load("one-sided")
    y, state = steps(mixer, arrays["x"])
    assert close(y, arrays["steps"], 1e-5)
    assert close(state, arrays["state"], 1e-5)


@torch.no_grad()
def test_the_impulse_response_is_megas_kernel():
    mixer = DampedEMAConfig(4).build(24)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    mixer = mixer.double()
    p, damping = torch.sigmoid(mixer.delta)[..., 0], torch.sigmoid(mixer.alpha)[..., 0]
    kernel = ema_kernel(p, 1 - p * damping, mixer.beta[..., 0], mixer.gamma / 2, 30)
    mixer.omega.zero_()
    x = torch.zeros(1, 30, 24, dtype=torch.float64)
    x[:, 0] = 1
    assert close(mixer(x)[0][0].T, torch.nn.functional.silu(kernel), 1e-12)


def test_both_directions():
    mixer = DampedEMAConfig(4, bidirectional=True).build(24)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    mixer = mixer.double()
    x = sequence(9).requires_grad_()
    (gradient,) = torch.autograd.grad(mixer(x)[0][:, 4].sum(), x)
    assert (gradient.abs().sum((0, 2)) > 0).all()
    for call in (lambda: mixer.init_state(2), lambda: mixer(x, torch.zeros(2, 24, 4))):
        with pytest.raises(ValueError, match="needs the whole sequence: it has no state"):
            call()


def test_initialisation_is_the_published_one():
    mixer = DampedEMAConfig(16).build(512)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    assert mixer.delta.std().item() == pytest.approx(0.2, rel=0.05)
    assert mixer.beta[:, ::2].mean().item() == pytest.approx(1, abs=0.01)
    assert mixer.beta[:, 1::2].mean().item() == pytest.approx(-1, abs=0.01)
    assert mixer.beta[:, ::2].std().item() == pytest.approx(0.02, rel=0.05)
    assert mixer.gamma.std().item() == pytest.approx(1, rel=0.05)


def test_errors_are_named():
    with pytest.raises(ValueError, match="states must not be negative, got -1"):
        DampedEMAConfig(-1).build(4)
