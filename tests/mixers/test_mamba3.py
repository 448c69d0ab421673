"""Mamba-3 against what the official module and its references computed, and against Mamba-2."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from benchmarks import golden_mamba3
from ntlib.mixers.mamba3 import Mamba3Config
from ntlib.ops.linear_attention import linear_attention
from tests.ops.battery import relative


@pytest.fixture(params=golden_mamba3.CASES)
def kept(request):
    """Our mixer with their weights, and what theirs did."""
    case = golden_mamba3.CASES[request.param]
    names = {"headdim": "head_dim", "ngroups": "n_groups"}
    config = Mamba3Config(**{names.get(name, name): value for name, value in case.items()})
    found = load_file(golden_mamba3.TARGET)
    found = {
        name.removeprefix(f"{request.param}/"): x
        for name, x in found.items()
        if name.startswith(f"{request.param}/")
    }
    mixer = config.build(golden_mamba3.D_MODEL).double()
    weights = {n.removeprefix("weights."): x for n, x in found.items() if n.startswith("weights.")}
    mixer.load_state_dict(weights)
    return mixer, found


def test_where_the_numbers_came_from():
    provenance = json.loads(golden_mamba3.TARGET.with_suffix(".json").read_text())
    assert provenance["cases"] == golden_mamba3.CASES
    assert provenance["seed"] == golden_mamba3.SEED
    assert len(provenance["commit"]) == 40


# They round A and the angles to float32, and the second reference steps and decays.
@pytest.mark.parametrize("form", ["recurrent", "parallel", "chunkwise", "compiled"])
@torch.no_grad()
def test_their_outputs_and_states(kept, form):
    mixer, found = kept
    y, state = mixer(found["x"], form=form)
    assert relative(y, found["y"]) < 1e-6
    assert relative(y, found["y at once"]) < 1e-5
    assert relative(state.angle.cos(), found["angle"].cos()) < 1e-6
    assert relative(state.angle.sin(), found["angle"].sin()) < 1e-6
    assert relative(state.ssm, found["ssm"].transpose(-1, -2)) < 1e-6
    assert relative(state.key, found["key"]) < 1e-6
    assert relative(state.value, found["value"]) < 1e-12


@torch.no_grad()
def test_their_outputs_step_by_step(kept):
    mixer, found = kept
    state = mixer.init_state(golden_mamba3.BATCH)
    for t, x_t in enumerate(found["x"].unbind(1)):
        y_t, state = mixer.step(x_t, state)
        assert relative(y_t, found["y"][:, t]) < 1e-6
    assert relative(state.ssm, found["ssm"].transpose(-1, -2)) < 1e-6


def test_their_gradients(kept):
    mixer, found = kept
    x = found["x"].requires_grad_()
    named = {"x": x} | dict(mixer.named_parameters())
    grads = torch.autograd.grad(mixer(x)[0].sin().sum(), list(named.values()))
    for name, grad in zip(named, grads, strict=True):
        assert relative(grad, found[f"gradient of {name}"]) < 1e-5, name


@torch.no_grad()
def test_without_the_trapezoid_and_the_turns_it_is_mamba2s_rule():
    """lambda = 1 and angles of 0: linear attention with values Delta x and decay Delta A."""
    mixer = Mamba3Config(d_state=6, head_dim=6).build(12).double()
    x = torch.randn(2, 30, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[..., 0] = 1
    trap, angle = mixer.in_proj.weight[-5:].split((4, 1))
    trap.zero_()[:, 0] = 50
    angle.zero_()
    z, v, b, c, dt, a = mixer.in_proj(x).split(mixer.widths, dim=-1)[:6]
    delta = F.softplus(dt + mixer.dt_bias).transpose(1, 2)
    log_decay = -delta * torch.where(a > 0, 1 + a, 1 / (1 - a)).transpose(1, 2)
    q, k = mixer.C_norm(c)[:, None] + mixer.C_bias, mixer.B_norm(b)[:, None] + mixer.B_bias
    v = v.unflatten(-1, (4, -1)).transpose(1, 2)
    y = linear_attention(q, k, delta[..., None] * v, log_decay)[0] + mixer.D[:, None, None] * v
    expected = mixer.out_proj(y.transpose(1, 2).flatten(2) * F.silu(z))
    assert relative(mixer(x)[0], expected) < 1e-12


def test_the_size_of_the_released_code():
    mixer = Mamba3Config().build(768)
    assert mixer.in_proj.weight.shape == (3432, 768)
    assert sum(p.numel() for p in mixer.parameters()) == 3_821_872


@torch.no_grad()
def test_initial_values():
    mixer = Mamba3Config().build(256)
    mixer.reset_parameters(torch.Generator().manual_seed(0), residual_scale=0.5)
    delta = F.softplus(mixer.dt_bias)
    assert delta.min() >= 0.999e-3
    assert delta.max() <= 0.1001
    assert (mixer.B_bias == 1).all()
    assert (mixer.C_norm.weight == 1).all()
    assert mixer.out_proj.weight.abs().max() <= 0.5 * 512**-0.5


def test_bad_configurations_are_named():
    for wrong in ({"d_state": 5}, {"d_state": 2}, {"rope_fraction": 1.5}):
        with pytest.raises(ValueError, match="d_state must be even and rope_fraction"):
            Mamba3Config(head_dim=8, **wrong).build(16)
    with pytest.raises(ValueError, match="n_groups must divide n_heads = 4, got 3"):
        Mamba3Config(head_dim=8, n_groups=3).build(16)
