"""DSS against the official repository's numbers, poles that grow, and its softmax's length."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import golden_dss
from ntlib.mixers.dss import DSSConfig
from ntlib.mixers.s4d import S4DConfig
from ntlib.mixers.state_space import resample
from tests.mixers.battery import close, sequence, steps
from tests.mixers.test_s4d import case


@pytest.fixture(scope="module")
def golden():
    return load_file(golden_dss.TARGET)


def load(golden, name):
    arrays, weights = case(golden, name)
    kernel = {k.removeprefix("layer.kernel."): v for k, v in weights.items() if "kernel" in k}
    flip = torch.tensor([1.0, -1.0], dtype=torch.float64)
    B, C = (torch.view_as_complex(kernel[key][0]) for key in "BC")
    mixer = DSSConfig(golden_dss.D_STATE, golden_dss.LONGER).build(golden_dss.D_MODEL).double()
    mixer.load_state_dict(
        {
            "D": weights["layer.D"][0],
            "kernel.log_dt": kernel["inv_dt"][:, 0],
            # theirs negates both parts; its output is a real part, so all may be conjugated
            "kernel.Lambda_re": -kernel["A_real"][0],
            "kernel.Lambda_im": kernel["A_imag"][0],
            "kernel.W": torch.view_as_real(B * C) * flip,
            "kernel.l_kernel": torch.tensor(golden_dss.LONGER),
        }
        | {k: v for k, v in weights.items() if "output" in k}
    )
    return mixer, arrays


def growing(**options):
    """A mixer of which some poles have positive real parts."""
    mixer = DSSConfig(**({"d_state": 8, "l_max": 32, "dt_min": 0.01} | options)).build(24)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        mixer.kernel.Lambda_re.copy_(torch.tensor([-0.5, 0.4, -1.0, 1.5]))
    return mixer.double()


@pytest.mark.parametrize("name", golden_dss.CASES)
@torch.no_grad()
def test_the_official_kernel_and_block(golden, name):
    """Theirs is rounded to float32."""
    mixer, arrays = load(golden, name)
    assert close(mixer(arrays["x"])[0], arrays["y"], 1e-6)
    assert close(steps(mixer, arrays["x"])[0], arrays["y"], 1e-6)
    assert close(mixer.kernel(golden_dss.LONGER), arrays["longer kernel"][0].double(), 1e-6)
    mixer.renormalise(golden_dss.LENGTH)
    assert close(mixer.kernel(golden_dss.LENGTH), arrays["kernel"][0].double(), 1e-6)


@torch.no_grad()
def test_the_kernel_is_a_softmax():
    mixer = growing()
    kernel, positions = mixer.kernel, torch.arange(32)
    poles = torch.complex(kernel.Lambda_re, kernel.Lambda_im)
    exponents = kernel.log_dt.exp()[:, None, None] * poles[:, None] * positions
    softmax = exponents.exp() / exponents.exp().sum(-1, keepdim=True)
    w = torch.view_as_complex(kernel.W) / poles
    # the guard of the reciprocal costs what it is compared with
    assert close(kernel(32), (w[..., None] * softmax).sum(1).real, 1e-5)


@torch.no_grad()
def test_poles_that_grow_in_all_forms():
    mixer, x = growing(), sequence(29)
    whole, end = mixer(x)
    stepped, stepped_end = steps(mixer, x)
    assert close(whole, stepped)
    assert close(end.sums, stepped_end.sums)
    assert end.position == stepped_end.position == 29
    for cut in (1, 10, 28):
        first, state = mixer(x[:, :cut])
        assert close(torch.cat([first, mixer(x[:, cut:], state)[0]], dim=1), whole)


def test_poles_that_grow_have_gradients():
    mixer, x = growing(), sequence(6, batch=1)
    parameters = list(mixer.kernel.parameters())
    parallel = torch.autograd.grad(mixer(x)[0].sin().sum(), parameters)
    recurrent = torch.autograd.grad(steps(mixer, x)[0].sin().sum(), parameters)
    for one, other in zip(parallel, recurrent, strict=True):
        assert close(one, other, 1e-9)


@torch.no_grad()
def test_exponents_do_not_overflow():
    mixer = growing(l_max=4096, dt_min=0.1, dt_max=0.5).float()
    y, state = mixer(sequence(4096, dtype=torch.float32))
    assert y.isfinite().all()
    assert state.sums.isfinite().all()
    assert mixer.step(sequence(1, dtype=torch.float32)[:, 0], state)[0].isfinite().all()


@torch.no_grad()
def test_a_long_softmax_is_zero_order_hold():
    """Over a length at which all has decayed the divisor is that of an infinite sum, and the kernel
    S4D's with C = -W / 2."""
    mixer = DSSConfig(d_state=8, l_max=100_000, dt_min=0.05).build(24)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    mixer = mixer.double()
    other = S4DConfig(d_state=8, init="lin").build(24).double()
    weights = {k: v for k, v in mixer.state_dict().items() if "kernel" not in k}
    kernel = mixer.kernel
    weights |= {
        "kernel.log_dt": kernel.log_dt,
        "kernel.log_A_real": (-kernel.Lambda_re).log().expand(24, -1),
        "kernel.A_imag": kernel.Lambda_im.expand(24, -1),
        "kernel.C": -kernel.W / 2,
    }
    other.load_state_dict(weights)
    x = sequence(20)
    assert close(mixer(x)[0], other(x)[0], 1e-5)


@torch.no_grad()
def test_renormalising_changes_the_kernel_and_resampling_hardly_does():
    mixer = growing(d_state=8, l_max=400, dt_min=0.001, dt_max=0.01)
    before = mixer.kernel(400)
    mixer.renormalise(200)
    assert not close(mixer.kernel(200), before[:, :200], 0.1)
    mixer.renormalise(400)
    resample(mixer, 2)
    assert int(mixer.kernel.l_kernel) == 200
    assert close(mixer.kernel(200), 2 * before[:, ::2], 0.05)


def test_errors_are_named():
    with pytest.raises(ValueError, match="d_state must be even and at least 2, got 3"):
        DSSConfig(d_state=3).build(4)
    with pytest.raises(ValueError, match="l_max must be at least 1, got 0"):
        DSSConfig(l_max=0).build(4)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        DSSConfig().build(4).renormalise(0)
