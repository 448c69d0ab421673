"""S4D against the official modules' numbers, and what its configuration changes."""

import math

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import golden_s4
from ntlib.mixers.h3 import H3Config
from ntlib.mixers.mega import MegaConfig
from ntlib.mixers.s4d import S4DConfig
from ntlib.mixers.state_space import resample, sampled_systems
from ntlib.ops.long_conv import FORMS
from tests.mixers.battery import close, sequence, steps

DIAGONAL = [name for name in golden_s4.CASES if name.startswith("diag")]


@pytest.fixture(scope="module")
def golden():
    return load_file(golden_s4.TARGET)


def case(golden, name):
    """Arrays of a case, and its weights by name."""
    arrays = {k.removeprefix(f"{name}/"): v for k, v in golden.items() if k.startswith(f"{name}/")}
    weights = {k.removeprefix("weights."): v for k, v in arrays.items() if k.startswith("weights.")}
    return arrays, weights


def from_standalone(weights, **options):
    """The official standalone module keeps the other pole of each pair: B and C are conjugated."""
    flip = torch.tensor([1.0, -1.0], dtype=torch.float64)
    kernel = {k.removeprefix("layer.kernel."): v for k, v in weights.items() if "kernel" in k}
    two_sided = len(kernel["C"]) == 2
    config = S4DConfig(d_state=golden_s4.D_STATE, learn_b=True, bidirectional=two_sided, **options)
    mixer = config.build(golden_s4.D_MODEL).double()
    renamed = {
        "D": weights["layer.D"][0],
        "kernel.log_dt": kernel["inv_dt"][:, 0],
        "kernel.log_A_real": kernel["A_real"],
        "kernel.A_imag": kernel["A_imag"],
        "kernel.B": kernel["B"][0] * flip,
        "kernel.C": (kernel["C"] if two_sided else kernel["C"][0]) * flip,
    }
    mixer.load_state_dict(renamed | {k: v for k, v in weights.items() if "output" in k})
    return mixer


@pytest.mark.parametrize("form", FORMS)
def test_the_minimal_module(golden, form):
    arrays, weights = case(golden, "minimal")
    mixer = S4DConfig(d_state=golden_s4.D_STATE).build(golden_s4.D_MODEL).double()
    weights["output_linear.0.weight"] = weights["output_linear.0.weight"].squeeze(-1)
    mixer.load_state_dict(weights)
    with torch.no_grad():
        assert close(mixer(arrays["x"], form=form)[0], arrays["y"], 1e-10)
        assert close(steps(mixer, arrays["x"])[0], arrays["y"], 1e-10)


@pytest.mark.parametrize("name", DIAGONAL)
def test_the_standalone_module(golden, name):
    """Output of the whole block, its steps, and of its kernel the impulse response."""
    arrays, weights = case(golden, name)
    mixer = from_standalone(weights, discretisation=golden_s4.CASES[name].get("disc", "zoh"))
    x = arrays["x"][:, : golden_s4.LENGTH]
    with torch.no_grad():
        assert close(mixer(x)[0], arrays["y"], 1e-10)
        if not mixer.config.bidirectional:
            assert close(steps(mixer, x)[0], arrays["steps"], 1e-10)


@pytest.mark.parametrize("name", ["diag-lin", "diag-inv", "diag-legs", "diag-real"])
def test_initialisations_are_the_official_ones(golden, name):
    weights = case(golden, name)[1]
    config = S4DConfig(d_state=golden_s4.D_STATE, init=name.removeprefix("diag-"), learn_b=True)
    mixer = config.build(golden_s4.D_MODEL)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    kernel = mixer.kernel
    order = [3, 2, 1, 0] if config.init == "legs" else [0, 1, 2, 3]  # theirs: fastest pole first
    for ours, theirs in ((kernel.log_A_real, "A_real"), (kernel.A_imag, "A_imag")):
        theirs = weights[f"layer.kernel.{theirs}"][:, order]
        assert (ours - theirs).abs().max() < 2e-4  # theirs keeps Im A off 0 by 1e-4
    # eigenvectors, and with them B, are determined up to a phase; theirs clips Im B at 2
    theirs = weights["layer.kernel.B"][0, :, order]
    unclipped = theirs[..., 1].abs() < 2
    difference = kernel.B.double().norm(dim=-1) - theirs.norm(dim=-1)
    assert difference[unclipped].abs().max() < 1e-5
    steps_drawn = kernel.log_dt.exp()
    assert ((steps_drawn >= 0.001) & (steps_drawn <= 0.1)).all()


def test_sampling_half_as_often():
    """A slow signal, sampled at half the rate and read with twice the step: the same outputs."""
    mixer = S4DConfig(d_state=8, dt_max=0.02).build(4)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    mixer = mixer.double()
    t = torch.arange(0, 60, 0.05, dtype=torch.float64)
    x = torch.stack([(t * w).sin() for w in (0.3, 0.5, 0.7, 0.9)], dim=-1)[None]
    with torch.no_grad():
        fine = mixer(x)[0]
        resample(mixer, 2)
        coarse = mixer(x[:, ::2])[0]
    assert close(coarse, fine[:, ::2], 0.05)


@pytest.mark.parametrize(
    "config",
    [S4DConfig(8), MegaConfig(4, average="s4d"), H3Config(8)],
    ids=lambda c: type(c).__name__,
)
def test_sampling_reaches_the_system_wherever_it_stands(config):
    mixer = config.build(4)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    (system,) = sampled_systems(mixer)
    before = system.log_dt.clone()
    resample(mixer, 2)
    assert torch.allclose(system.log_dt, before + math.log(2))


def test_parameters_keep_their_digits_in_low_precision():
    mixer = S4DConfig(d_state=8).build(4)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    before = mixer.kernel.log_dt.clone()
    mixer = mixer.bfloat16()
    assert mixer.D.dtype == torch.bfloat16
    assert mixer.kernel.log_dt.dtype == torch.float32
    assert torch.equal(mixer.kernel.log_dt, before)
    assert mixer.init_state(1).dtype == torch.complex64
    assert mixer.double().kernel.C.dtype == torch.float64


def test_what_is_kept_for_steps_follows_the_parameters():
    mixer = S4DConfig(d_state=4).build(24)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    mixer = mixer.double()
    x = sequence(6)
    with torch.no_grad():
        assert close(steps(mixer, x)[0], mixer(x)[0])
        mixer.kernel.A_imag += 1.0
        assert close(steps(mixer, x)[0], mixer(x)[0])
        mixer.load_state_dict({k: v * 0.9 for k, v in mixer.state_dict().items()})
        assert close(steps(mixer, x)[0], mixer(x)[0])
    steps(mixer, x)[0].sum().backward()  # with gradients nothing kept is used
    assert mixer.kernel.log_dt.grad.abs().max() > 0


def test_both_directions():
    mixer = S4DConfig(d_state=8, bidirectional=True).build(24)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    mixer = mixer.double()
    x = sequence(9).requires_grad_()
    out, state = mixer(x)
    assert state is None
    (gradient,) = torch.autograd.grad(out[:, 4].sum(), x)
    assert (gradient.abs().sum((0, 2)) > 0).all()
    for call in (
        lambda: mixer.init_state(2),
        lambda: mixer.step(x[:, 0], None),
        lambda: mixer(x, torch.zeros(2, 24, 4)),
    ):
        with pytest.raises(ValueError, match="needs the whole sequence: it has no state"):
            call()


def test_errors_are_named():
    with pytest.raises(ValueError, match="init must be 'lin', 'inv', 'legs' or 'real', got 'x'"):
        S4DConfig(init="x").build(4)
    with pytest.raises(ValueError, match="d_state must be even and at least 2, got 3"):
        S4DConfig(d_state=3).build(4)
    with pytest.raises(ValueError, match="discretisation must be 'zoh' or 'bilinear', got 'x'"):
        S4DConfig(discretisation="x").build(4)


def test_size():
    """Parameters and state of the minimal module at its defaults."""
    mixer = S4DConfig().build(256)
    expected = 256 + 4 * 256 * 32 + 256 + 256 * 512 + 512  # log_dt, A and C, D, W, bias
    assert sum(p.numel() for p in mixer.parameters()) == expected
    assert mixer.init_state(1).nbytes == 256 * 32 * 8
    assert math.isclose(mixer.init_state(3).nbytes / mixer.init_state(1).nbytes, 3)
