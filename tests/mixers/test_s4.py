"""S4 against the official module's numbers, at other lengths, and in both directions."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import golden_s4
from ntlib.mixers.s4 import S4Config
from ntlib.mixers.state_space import resample
from tests.mixers.battery import close, sequence, steps
from tests.mixers.test_s4d import case

CASES = [name for name in golden_s4.CASES if name.startswith("dplr")]


@pytest.fixture(scope="module")
def golden():
    return load_file(golden_s4.TARGET)


def load(golden, name):
    arrays, weights = case(golden, name)
    given = golden_s4.CASES[name]
    config = S4Config(
        d_state=golden_s4.D_STATE,
        l_max=golden_s4.LENGTH,
        n_ssm=given.get("n_ssm"),
        bidirectional=given.get("bidirectional", False),
    )
    mixer = config.build(golden_s4.D_MODEL).double()
    weights = {key.removeprefix("layer."): value for key, value in weights.items()}
    mixer.load_state_dict(weights | {"D": weights["D"][0]})
    return mixer, arrays


def built(**options):
    mixer = S4Config(**({"d_state": 8, "l_max": 32} | options)).build(24)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    return mixer.double()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_official_module(golden, name):
    """Kernel, output of the whole block, steps, and the kernel at a length it was not made for.

    Their node next to w = -1 and that one itself have lost digits: hence 1e-7 and not 1e-10.
    """
    mixer, arrays = load(golden, name)
    x = arrays["x"][:, : golden_s4.LENGTH]
    assert close(mixer.kernel(golden_s4.LENGTH)[0], arrays["kernel"], 1e-9)
    assert close(mixer.kernel(golden_s4.LONGER)[0], arrays["longer kernel"], 1e-9)
    assert close(mixer(x)[0], arrays["y"], 1e-9)
    if not mixer.config.bidirectional:
        assert close(steps(mixer, x)[0], arrays["steps"], 1e-9)


def test_initialisation_is_the_official_one(golden):
    mixer, _ = load(golden, "dplr legs")
    ours = S4Config(d_state=golden_s4.D_STATE).build(golden_s4.D_MODEL)
    ours.reset_parameters(torch.Generator().manual_seed(0))
    # theirs lists the fastest pole first
    kernel = mixer.kernel
    assert close(ours.kernel.A_real.double(), kernel.A_real.flip(-1), 1e-5)
    assert close(ours.kernel.A_imag.double(), kernel.A_imag.flip(-1), 1e-5)
    # eigenvectors are determined up to a phase
    assert close(ours.kernel.P.double().norm(dim=-1), kernel.P.flip(-2).norm(dim=-1), 1e-5)
    theirs = kernel.B.flip(-2)
    difference = ours.kernel.B.double().norm(dim=-1) - theirs.norm(dim=-1)
    assert difference[theirs[..., 1].abs() < 2].abs().max() < 1e-5  # theirs clips Im B at 2


@pytest.mark.parametrize("length", [1, 5, 32, 33, 100])
@torch.no_grad()
def test_any_length(length):
    """The convolution equals the recurrence, at lengths below and above that of C-tilde."""
    mixer, x = built(), sequence(length)
    y, state = mixer(x)
    stepped, end = steps(mixer, x)
    assert close(y, stepped, 1e-9)
    assert close(state, end, 1e-9)


@torch.no_grad()
def test_lengthening_changes_nothing():
    mixer, x = built(), sequence(70)
    before = mixer(x)[0]
    for length in (70, 128, 8):
        mixer.lengthen(length)
        assert int(mixer.kernel.l_kernel) == length
        assert close(mixer(x)[0], before, 1e-8)


@torch.no_grad()
def test_sampling_half_as_often():
    mixer = built(dt_max=0.02)
    t = torch.arange(0, 60, 0.05, dtype=torch.float64)[:, None]
    x = (t * torch.linspace(0.2, 0.9, 24, dtype=torch.float64)).sin()[None]
    fine = mixer(x)[0]
    resample(mixer, 2)
    assert close(mixer(x[:, ::2])[0], fine[:, ::2], 0.05)


def test_both_directions():
    mixer, x = built(bidirectional=True), sequence(9).requires_grad_()
    out, state = mixer(x)
    assert state is None
    (gradient,) = torch.autograd.grad(out[:, 4].sum(), x)
    assert (gradient.abs().sum((0, 2)) > 0).all()
    with pytest.raises(ValueError, match="needs the whole sequence: it has no state"):
        mixer.init_state(1)


def test_systems_may_be_shared():
    mixer, x = built(n_ssm=3), sequence(20)
    assert mixer.kernel.A_imag.shape == (3, 4)
    with torch.no_grad():
        assert close(mixer(x)[0], steps(mixer, x)[0], 1e-9)
    mixer(x)[0].sum().backward()
    assert mixer.kernel.P.grad.abs().max() > 0


def test_errors_are_named():
    with pytest.raises(ValueError, match="n_ssm must divide d_model = 24, got 5"):
        S4Config(n_ssm=5).build(24)
    with pytest.raises(ValueError, match="measure must be 'legs' or 'legt', got 'x'"):
        S4Config(measure="x").build(24)
