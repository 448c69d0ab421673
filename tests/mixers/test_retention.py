"""Retention against the authors' released code, in each of its three modes, on shared weights."""

from types import SimpleNamespace

import pytest
import torch

from ntlib.mixers.retention import RetentionConfig, retention_log_decay
from tests.torchscale_peer import import_torchscale

D_MODEL, HEADS, LENGTH, CHUNK = 48, 3, 32, 8


@pytest.fixture(scope="module")
def torchscale():
    return import_torchscale()


def pair(torchscale, eps, **config):
    """Our mixer and theirs with the same weights, in float64."""
    args = SimpleNamespace(
        multiway=False,
        layernorm_eps=eps,
        decoder_embed_dim=D_MODEL,
        decoder_retention_heads=HEADS,
        recurrent_chunk_size=CHUNK,
    )
    theirs = torchscale.MultiScaleRetention(args, D_MODEL, 2 * D_MODEL, HEADS).double()
    ours = RetentionConfig(HEADS, eps=eps, chunk_size=CHUNK, **config).build(D_MODEL).double()
    ours.reset_parameters(torch.Generator().manual_seed(0))
    for projection, weight in zip(
        "qkvg", ours.qkvg.weight.split([D_MODEL, D_MODEL, 2 * D_MODEL, 2 * D_MODEL]), strict=True
    ):
        getattr(theirs, f"{projection}_proj").weight.data = weight.detach().clone()
    theirs.out_proj.weight.data = ours.o.weight.detach().clone()
    return ours, theirs, torchscale.RetNetRelPos(args).double()


def run_theirs(theirs, position, x, mode):
    if mode == "recurrent":
        state, outputs = {}, []
        for t in range(x.shape[1]):
            outputs.append(
                theirs(
                    x[:, t : t + 1],
                    position(t + 1, activate_recurrent=True),
                    incremental_state=state,
                )
            )
        return torch.cat(outputs, dim=1)
    chunkwise = mode == "chunkwise"
    return theirs(
        x, position(x.shape[1], chunkwise_recurrent=chunkwise), chunkwise_recurrent=chunkwise
    )


def difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.fixture
def x():
    return torch.randn(
        2, LENGTH, D_MODEL, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
@pytest.mark.parametrize("mode", ["parallel", "recurrent", "chunkwise"])
@torch.no_grad()
def test_equals_the_released_code_as_eps_vanishes(torchscale, x, mode, form):
    """Their head norm computes in float32 whatever it is given, hence 1e-5 and not less."""
    ours, theirs, position = pair(torchscale, eps=1e-30)
    assert difference(ours(x, form=form)[0], run_theirs(theirs, position, x, mode)) < 1e-5


@torch.no_grad()
def test_equals_their_recurrent_mode_at_the_released_eps(torchscale, x):
    ours, theirs, position = pair(torchscale, eps=1e-6)
    assert difference(ours(x)[0], run_theirs(theirs, position, x, "recurrent")) < 1e-5


@torch.no_grad()
def test_row_normalisation_equals_their_parallel_mode_at_the_released_eps(torchscale, x):
    ours, theirs, position = pair(torchscale, eps=1e-6, row_normalisation=True)
    assert difference(ours(20 * x)[0], run_theirs(theirs, position, 20 * x, "parallel")) < 1e-5
    without, _, _ = pair(torchscale, eps=1e-6)
    assert difference(without(x / 20)[0], run_theirs(theirs, position, x / 20, "parallel")) < 1e-5


def test_row_normalisation_has_their_gradients(torchscale, x):
    ours, theirs, position = pair(torchscale, eps=1e-6, row_normalisation=True)
    ours(20 * x)[0].sin().sum().backward()
    run_theirs(theirs, position, 20 * x, "parallel").sin().sum().backward()
    grads = torch.cat([getattr(theirs, f"{projection}_proj").weight.grad for projection in "qkvg"])
    assert difference(ours.qkvg.weight.grad, grads) < 1e-5
    assert difference(ours.o.weight.grad, theirs.out_proj.weight.grad) < 1e-5


@torch.no_grad()
def test_their_modes_disagree_at_the_released_eps(torchscale, x):
    """The departure the RetNet chapter describes: were this to change, the chapter would have
    to."""
    _, theirs, position = pair(torchscale, eps=1e-6)
    x = x / 20  # small activations, where eps weighs more
    parallel, recurrent, chunkwise = (
        run_theirs(theirs, position, x, mode) for mode in ("parallel", "recurrent", "chunkwise")
    )
    assert difference(recurrent, parallel) < 1e-5  # no row sum exceeds 1 here
    assert difference(chunkwise, parallel) > 1e-3


def test_decay_schedules():
    gamma = retention_log_decay(4, "eq8").exp()
    assert torch.allclose(
        gamma, torch.tensor([1 - 2**-5, 1 - 2**-6, 1 - 2**-7, 1 - 2**-8], dtype=torch.float64)
    )
    gamma = retention_log_decay(3, "experiments").exp()
    assert torch.allclose(
        gamma[[0, 2]], torch.tensor([1 - 1 / 32, 1 - 1 / 512], dtype=torch.float64)
    )
    with pytest.raises(ValueError, match="decay must be 'eq8' or 'experiments', got 'fast'"):
        RetentionConfig(decay="fast").build(8)


def test_bad_configurations_are_named():
    with pytest.raises(ValueError, match="head_norm must be 'rms' or 'group', got 'layer'"):
        RetentionConfig(head_norm="layer").build(8)
    with pytest.raises(ValueError, match="n_heads must divide value width = 10, got 4"):
        RetentionConfig(4, value_dim=10).build(8)
