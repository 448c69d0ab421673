"""S5 against the official layer's numbers, its initialisation, and its options."""

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from benchmarks import golden_s5
from ntlib.mixers.s5 import S5Config
from ntlib.mixers.state_space import resample
from ntlib.ops.hippo import normal_plus_low_rank
from tests.mixers.battery import close, sequence, steps
from tests.mixers.test_s4d import case


@pytest.fixture(scope="module")
def golden():
    return load_file(golden_s5.TARGET)


def load(golden, name):
    arrays, weights = case(golden, name)
    weights = {key: value.double() for key, value in weights.items()}
    given = golden_s5.CASES[name]
    two_sided, full = given.get("bidirectional", False), given["activation"] == "full_glu"
    config = S5Config(
        d_state=golden_s5.D_STATE,
        blocks=golden_s5.BLOCKS,
        discretisation=given.get("discretization", "zoh"),
        clip_poles=given.get("clip_eigs", False),
        bidirectional=two_sided,
        gate="full" if full else "half",
    )
    system = {k.removeprefix("seq/"): v for k, v in weights.items() if k.startswith("seq/")}
    if "C1" in system:
        C = torch.stack([system["C1"], system["C2"]])
    else:
        C = torch.stack(system["C"].chunk(1 + two_sided, dim=1))
    maps = ("out1", "out2") if full else ("out2",)
    mixer = config.build(golden_s5.D_MODEL).double()
    mixer.load_state_dict(
        {f"kernel.{name}": system[name] for name in ("Lambda_re", "Lambda_im", "B")}
        | {"kernel.C": C, "kernel.log_step": system["log_step"][:, 0], "D": system["D"]}
        | {"output_linear.0.weight": torch.cat([weights[f"{m}/kernel"].T for m in maps])}
        | {"output_linear.0.bias": torch.cat([weights[f"{m}/bias"] for m in maps])}
    )
    if "step_rescale" in given:
        resample(mixer, given["step_rescale"])
    return mixer, arrays, weights


@pytest.mark.parametrize("name", golden_s5.CASES)
@torch.no_grad()
def test_the_official_system(golden, name, monkeypatch):
    """The system with its direct path, before the gate."""
    mixer, arrays, _ = load(golden, name)
    monkeypatch.setattr(mixer, "read_out", lambda x, y: torch.addcmul(y, x, mixer.D))
    x = arrays["x"][None]
    assert close(mixer(x)[0][0], arrays["system"], 1e-12)
    if not mixer.config.bidirectional:
        for form in ("recurrent", "parallel", "chunkwise", "compiled"):
            assert close(mixer(x, form=form)[0][0], arrays["system"], 1e-12)
        assert close(steps(mixer, x)[0][0], arrays["system"], 1e-12)


@pytest.mark.parametrize("name", golden_s5.CASES)
@torch.no_grad()
def test_the_official_layer(golden, name):
    """With norm, gate and residual; their GELU is an approximation."""
    mixer, arrays, weights = load(golden, name)
    x = arrays["x"][None]
    normed = F.layer_norm(x, x.shape[-1:], weights["norm/scale"], weights["norm/bias"], eps=1e-6)
    assert close((x + mixer(normed)[0])[0], arrays["layer"], 1e-3)


@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
@torch.no_grad()
def test_scipy_runs_the_same_system(discretisation):
    """The layer's real form, discretised and simulated by SciPy. Steps differ between states, so
    they multiply A and B, and SciPy's is 1."""
    mixer = S5Config(d_state=10, discretisation=discretisation, dt_min=0.05).build(24)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    mixer = mixer.double()
    mixer.read_out = lambda x, y: y
    kernel, x = mixer.kernel, sequence(25, batch=1)
    dt = kernel.log_step.exp()
    real, imaginary = (torch.diag(dt * part) for part in (kernel.Lambda_re, kernel.Lambda_im))
    A = torch.cat([torch.cat([real, -imaginary], 1), torch.cat([imaginary, real], 1)])
    B = torch.cat([dt[:, None] * part for part in kernel.B.unbind(-1)])
    C = 2 * torch.cat([kernel.C[0, ..., 0], -kernel.C[0, ..., 1]], dim=1)
    read = np.eye(10), np.zeros((10, 24))  # all states, before C: SciPy's bilinear rule changes it
    given = (A.numpy(), B.numpy(), *read)
    a, b, *_ = scipy.signal.cont2discrete(given, 1.0, method=discretisation)
    inputs = torch.cat([x[0], x[0, :1]])  # its states are those before each input
    _, states, _ = scipy.signal.dlsim((a, b, *read, 1.0), inputs.numpy())
    assert close(mixer(x)[0][0], torch.as_tensor(states[1:]) @ C.T, 1e-10)


def test_the_initial_poles_are_the_official_ones(golden):
    theirs = case(golden, "zoh")[1]
    mixer = S5Config(d_state=golden_s5.D_STATE, blocks=golden_s5.BLOCKS).build(golden_s5.D_MODEL)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    assert close(mixer.kernel.Lambda_re.double(), theirs["seq/Lambda_re"], 1e-6)
    # theirs keeps the other pole of each pair, fastest first
    per_block = -theirs["seq/Lambda_im"].view(golden_s5.BLOCKS, -1).flip(-1).flatten()
    assert close(mixer.kernel.Lambda_im.double(), per_block, 1e-6)


@pytest.mark.parametrize(
    ("c_init", "variance"),
    # V has orthonormal columns: C V has the variance of C
    [("trunc_standard_normal", 1 / 64), ("lecun_normal", 1 / (64 * 256)), ("complex_normal", 0.5)],
)
def test_the_initial_sizes_of_B_and_C(c_init, variance):
    mixer = S5Config(d_state=64, blocks=2, c_init=c_init).build(256)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    assert mixer.kernel.C.var().item() == pytest.approx(variance, rel=0.05)
    # a real B has its energy in both halves of the pairs: of which one is kept
    assert mixer.kernel.B.square().sum(-1).mean().item() == pytest.approx(1 / 64, rel=0.05)
    assert ((mixer.kernel.log_step >= -6.91) & (mixer.kernel.log_step <= -2.30)).all()


def test_the_initial_B_is_real():
    """2 Re(V B) is the real matrix that was drawn."""
    mixer = S5Config(d_state=8).build(5)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    V = normal_plus_low_rank("legs", 8)[3]
    b = torch.view_as_complex(mixer.kernel.B.detach()).to(V.dtype)
    drawn = 2 * (V @ b).real
    assert close(V.mH @ drawn.to(V.dtype), b, 1e-6)
    assert drawn.var().item() == pytest.approx(1 / 8, rel=0.5)


@torch.no_grad()
def test_both_directions_see_the_present_twice():
    mixer = S5Config(d_state=8, bidirectional=True).build(24)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    mixer = mixer.double()
    one = S5Config(d_state=8).build(24).double()
    outputs = []
    for direction in range(2):
        weights = dict(mixer.state_dict())
        weights["kernel.C"] = weights["kernel.C"][direction : direction + 1]
        one.load_state_dict(weights)
        one.read_out = mixer.read_out = lambda x, y: y
        x = sequence(9)
        outputs.append(one(x.flip(1))[0].flip(1) if direction else one(x)[0])
    assert close(mixer(x)[0], outputs[0] + outputs[1])
    assert mixer(x)[1] is None
    with pytest.raises(ValueError, match="needs the whole sequence: it has no state"):
        mixer.init_state(1)


def test_a_clipped_pole_decays():
    mixer = S5Config(d_state=4, clip_poles=True).build(3)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        mixer.kernel.Lambda_re.fill_(2.0)
    assert (mixer.kernel.system()[0].abs() < 1).all()


@torch.no_grad()
def test_sampling_half_as_often():
    mixer = S5Config(d_state=8, dt_max=0.02).build(24)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    mixer = mixer.double()
    t = torch.arange(0, 60, 0.05, dtype=torch.float64)[:, None]
    x = (t * torch.linspace(0.2, 0.9, 24, dtype=torch.float64)).sin()[None]
    fine = mixer(x)[0]
    resample(mixer, 2)
    assert close(mixer(x[:, ::2])[0], fine[:, ::2], 0.05)


def test_errors_are_named():
    with pytest.raises(ValueError, match="d_state must be a multiple of twice blocks = 3"):
        S5Config(d_state=8, blocks=3).build(4)
    with pytest.raises(ValueError, match=r"c_init must be one of .*got 'x'"):
        S5Config(c_init="x").build(4)
    with pytest.raises(ValueError, match=r"gate must be one of .*got 'x'"):
        S5Config(gate="x").build(4)
    with pytest.raises(ValueError, match=r"discretisation must be one of .*got 'x'"):
        S5Config(discretisation="x").build(4)
    with pytest.raises(ValueError, match="rate must be positive, got 0"):
        resample(S5Config().build(4), 0)
    with pytest.raises(ValueError, match="Linear holds no state space to"):
        resample(torch.nn.Linear(2, 2), 2)
