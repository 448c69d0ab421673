"""Mamba's mixer against mambapy and transformers on shared weights, and as published."""

import math

import pytest
import torch

from ntlib.mixers.mamba import MambaConfig, MambaState
from ntlib.ops.compiled import reference
from tests.ops.battery import relative

D_MODEL, LENGTH = 40, 37


@pytest.fixture
def ours():
    mixer = MambaConfig(d_state=6, d_conv=3).build(D_MODEL).double()
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    return mixer


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, LENGTH, D_MODEL, generator=generator, dtype=torch.float64)


def mambapy_block(ours):
    mamba = pytest.importorskip("mambapy.mamba", reason="benchmarks/requirements.txt")
    config = mamba.MambaConfig(d_model=D_MODEL, n_layers=1, d_state=6, d_conv=3)
    theirs = mamba.MambaBlock(config).double()
    theirs.load_state_dict(ours.state_dict())
    return theirs


def transformers_mixer(ours):
    """Their mixer, and a cache for one layer."""
    pytest.importorskip("transformers", reason="benchmarks/requirements.txt")
    from transformers import DynamicCache
    from transformers.models.mamba.configuration_mamba import MambaConfig as TheirConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = TheirConfig(hidden_size=D_MODEL, state_size=6, conv_kernel=3, num_hidden_layers=1)
    theirs = MambaMixer(config, layer_idx=0).double().eval()
    theirs.load_state_dict(ours.state_dict())
    return theirs, DynamicCache(config=config)


def gradients(mixer, x):
    """Of a number that depends on every output, with respect to x and all weights, by name."""
    x = x.clone().requires_grad_()
    y = mixer(x)
    y = y[0] if isinstance(y, tuple) else y
    named = {"x": x} | dict(mixer.named_parameters())
    grads = torch.autograd.grad(y.sin().sum(), list(named.values()))
    return dict(zip(named, grads, strict=True))


# Both peers compute A, D or the scan in float32 whatever they are given.
@pytest.mark.parametrize("form", ["recurrent", "parallel", "chunkwise", "compiled"])
def test_mambapys_outputs(ours, x, form):
    with torch.no_grad():
        assert relative(ours(x, form=form)[0], mambapy_block(ours)(x)) < 1e-6


def test_mambapys_gradients(ours, x):
    theirs = gradients(mambapy_block(ours), x)
    for name, grad in gradients(ours, x).items():
        assert relative(grad, theirs[name]) < 1e-5, name


def test_mambapys_steps(ours, x):
    theirs = mambapy_block(ours)
    state, cache = ours.init_state(2), (None, torch.zeros(2, 2 * D_MODEL, 2).double())
    with torch.no_grad():
        for x_t in x.unbind(1):
            our_y, state = ours.step(x_t, state)
            their_y, cache = theirs.step(x_t, cache)
            assert relative(our_y, their_y) < 1e-6
    h, last = cache
    assert relative(state.ssm, h) < 1e-6
    assert relative(state.conv, last.transpose(1, 2)) < 1e-12


def test_transformers_outputs_states_and_gradients(ours, x):
    theirs, cache = transformers_mixer(ours)
    with torch.no_grad():
        our_y, state = ours(x)
        assert relative(our_y, theirs(x, cache=cache)) < 1e-6
    assert relative(state.ssm, cache.layers[0].recurrent_states[0]) < 1e-6
    their_conv = cache.layers[0].conv_states[0].transpose(1, 2)
    assert relative(state.conv, their_conv[:, -2:]) < 1e-12
    their_gradients = gradients(theirs, x)
    for name, grad in gradients(ours, x).items():
        assert relative(grad, their_gradients[name]) < 1e-5, name


def test_a_prefill_leaves_the_state_of_steps(ours, x):
    with torch.no_grad():
        _, whole = ours(x)
        state = ours.init_state(2)
        for x_t in x.unbind(1):
            _, state = ours.step(x_t, state)
    for a, b in zip(state, whole, strict=True):
        assert relative(a, b) < 1e-11


@pytest.mark.parametrize("batch", [1, 3, 7])
@pytest.mark.parametrize("d_conv", [1, 2, 4])
def test_the_compiled_step_is_the_readable_one(batch, d_conv):
    mixer = MambaConfig(d_conv=d_conv, d_state=3, dt_rank=2).build(70).double()
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(batch, 70, generator=generator, dtype=torch.float64)
    state = MambaState(
        *(torch.randn(s.shape, generator=generator).double() for s in mixer.init_state(batch))
    )
    kept = [part.clone() for part in state]
    with torch.no_grad():
        y, after = mixer.step(x_t, state)
        with reference():
            expected, expected_after = mixer.step(x_t, state)
    assert torch.allclose(y, expected, rtol=1e-12, atol=1e-13)
    for ours, theirs in zip(after, expected_after, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-13)
    for part, copy in zip(state, kept, strict=True):
        assert torch.equal(part, copy)


def test_the_published_initialisation():
    config = MambaConfig()
    mixer = config.build(512)
    mixer.reset_parameters(torch.Generator().manual_seed(0), residual_scale=0.5)
    assert mixer.dt_rank == 32
    delta = torch.nn.functional.softplus(mixer.dt_proj.bias).log10()
    assert -3 <= delta.min() < delta.max() <= -1
    assert abs(delta.mean() + 2) < 0.05  # log-uniform
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 17).expand(1024, 16))
    assert (mixer.D == 1).all()
    for layer, bound in (
        (mixer.in_proj, 512**-0.5),
        (mixer.x_proj, 1024**-0.5),
        (mixer.dt_proj, 32**-0.5),
        (mixer.conv1d, 0.5),
        (mixer.out_proj, 0.5 * 1024**-0.5),
    ):
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert math.isclose(layer.weight.detach().std(), bound / 3**0.5, rel_tol=0.05)
    floor = MambaConfig(dt_min=1e-6, dt_max=1e-5).build(32)
    assert torch.allclose(torch.nn.functional.softplus(floor.dt_proj.bias), torch.tensor(1e-4))


@pytest.mark.parametrize(
    ("d_model", "layers", "published"), [(768, 24, 129_135_360), (2560, 64, 2_768_345_600)]
)
def test_the_published_sizes(d_model, layers, published):
    """mamba-130m and mamba-2.8b: an embedding, layers with a norm each, a norm."""
    with torch.device("meta"):
        mixer = MambaConfig().build(d_model)
    layer = sum(p.numel() for p in mixer.parameters()) + d_model
    assert 50280 * d_model + layers * layer + d_model == published
