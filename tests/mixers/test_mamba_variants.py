"""Mamba's block with parts exchanged: as it stands it is Mamba, and each part does what it says."""

import pytest
import torch

from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.mamba_variants import SELECTED, MambaVariantConfig
from ntlib.mixers.s4d import S4DConfig
from tests.ops.battery import relative

D_MODEL = 24


def built(config):
    mixer = config.build(D_MODEL).double()
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    return mixer


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_with_nothing_changed_it_is_mamba():
    mamba, variant = built(MambaConfig(d_state=5)), built(MambaVariantConfig(d_state=5))
    inside = ("x_proj.weight", "dt_proj.weight", "A_log", "D")
    weights = mamba.state_dict()
    weights["system.dt_bias"] = weights.pop("dt_proj.bias")
    weights |= {f"system.{name}": weights.pop(name) for name in inside}
    variant.load_state_dict(weights)
    x = drawn(2, 21, D_MODEL)
    assert relative(variant(x)[0], mamba(x)[0]) < 1e-12


@pytest.mark.parametrize("part", SELECTED)
def test_what_is_fixed_does_not_see_the_token(part):
    """Of the three only the others have weights that read the token."""
    ours = built(MambaVariantConfig(fixed=(part,), d_state=5)).system
    assert set(ours.widths) == set(SELECTED) - {part}
    assert (ours.dt_proj is None) == (part == "delta")
    assert (ours.B is not None, ours.C is not None) == (part == "B", part == "C")


@pytest.mark.parametrize(
    "config", [MambaVariantConfig("S4D", d_state=6), MambaVariantConfig(fixed=SELECTED, d_state=6)]
)
def test_without_selection_the_system_is_linear_and_time_invariant(config):
    system = built(config).system
    x, y = drawn(2, 1, 30, 2 * D_MODEL)
    run = lambda inputs: system(inputs, None, None)[0]  # noqa: E731
    assert relative(run(2 * x - y), 2 * run(x) - run(y)) < 1e-10
    later = torch.cat([torch.zeros_like(x[:, :7]), x], dim=1)
    assert relative(run(later)[:, 7:], run(x)) < 1e-10


def test_with_selection_it_is_not():
    system = built(MambaVariantConfig(d_state=6)).system
    x = drawn(1, 30, 2 * D_MODEL)
    assert relative(system(2 * x, None, None)[0], 2 * system(x, None, None)[0]) > 1e-3


def test_s4d_inside_is_s4d():
    """The same impulse response as the system of ntlib.mixers.s4d with these weights."""
    system = built(MambaVariantConfig("S4D", d_state=6)).system
    whole = built(S4DConfig(d_state=6)).kernel
    small = type(whole)(2 * D_MODEL, S4DConfig(d_state=6)).double()
    small.load_state_dict(system.kernel.state_dict())
    a, b, c = small.system()
    impulse = torch.zeros(1, 9, 2 * D_MODEL, dtype=torch.float64)
    impulse[:, 0] = 1
    response = system(impulse, None, None)[0][0]
    powers = a[None] ** torch.arange(9)[:, None, None]
    expected = (c * b * powers).sum(-1).real
    expected[0] += system.D
    assert relative(response, expected) < 1e-10


def test_without_a_gate_nothing_multiplies_the_output():
    assert built(MambaVariantConfig(gate=False)).in_proj.out_features == 2 * D_MODEL
    with_gate = built(MambaVariantConfig(gate=True))
    assert with_gate.in_proj.out_features == 4 * D_MODEL


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="system must be 'S6' or 'S4D', got 'S5'"):
        MambaVariantConfig("S5")
    with pytest.raises(ValueError, match="fixed must hold names of"):
        MambaVariantConfig(fixed=("A",))
    with pytest.raises(ValueError, match="fixed must be empty for S4D"):
        MambaVariantConfig("S4D", fixed=("B",))
