"""Mamba-2 against transformers, on shared weights: outputs, gradients, states."""

import pytest
import torch

from ntlib.mixers.mamba2 import Mamba2Config

D_MODEL, LENGTH = 32, 37


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("transformers.models.mamba2.modeling_mamba2")


def pair(theirs, n_groups, layers=None):
    """Our mixer and theirs with the same random weights, in float32: theirs computes in nothing
    else."""
    ours = Mamba2Config(d_state=8, head_dim=16, n_groups=n_groups).build(D_MODEL)
    generator = torch.Generator().manual_seed(0)
    ours.reset_parameters(generator)
    with torch.no_grad():
        ours.norm.weight.uniform_(0.5, 1.5, generator=generator)
        ours.D.uniform_(0.5, 1.5, generator=generator)
        ours.dt_bias.add_(3)  # large steps: decays of 1 / 100 and less
    config = theirs.Mamba2Config(
        hidden_size=D_MODEL, state_size=8, head_dim=16, num_heads=4, n_groups=n_groups, chunk_size=8
    )
    mixer = theirs.Mamba2Mixer(config, layer_idx=0).eval()
    mixer.load_state_dict(ours.state_dict())
    return ours, mixer, config


def sequence(length=LENGTH):
    return torch.randn(2, length, D_MODEL, generator=torch.Generator().manual_seed(1))


def difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("n_groups", [1, 2])
def test_equals_transformers_in_outputs_and_gradients(theirs, n_groups):
    ours, mixer, _ = pair(theirs, n_groups)
    results = []
    for run in (lambda x: ours(x)[0], mixer):
        x = sequence().requires_grad_()
        module = mixer if run is mixer else ours
        y = run(x)
        names = dict(sorted(module.named_parameters()))
        results.append((y, *torch.autograd.grad(y.sin().sum(), [x, *names.values()])))
    for mine, expected in zip(*results, strict=True):
        assert difference(mine, expected) < 1e-5


@pytest.mark.parametrize("n_groups", [1, 2])
@torch.no_grad()
def test_prefill_leaves_their_state_and_steps_go_on_like_theirs(theirs, n_groups):
    from transformers.cache_utils import DynamicCache

    ours, mixer, config = pair(theirs, n_groups)
    cache = DynamicCache(config=config)
    x = sequence()
    y, state = ours(x[:, :-3])
    assert difference(y, mixer(x[:, :-3], cache)) < 1e-5
    for t in range(LENGTH - 3, LENGTH):
        expected = mixer(x[:, t : t + 1], cache)
        y, state = ours.step(x[:, t], state)
        assert difference(y, expected[:, 0]) < 1e-5
    final = cache.get_recurrent_state(0, state_idx=0)
    assert difference(state.ssm, final.transpose(-1, -2)) < 1e-5


@torch.no_grad()
def test_a_whole_model_of_transformers_gives_our_logits(theirs):
    """Two layers of theirs, rebuilt around our mixer from the same checkpoint."""
    config = theirs.Mamba2Config(
        vocab_size=29, hidden_size=32, state_size=8, head_dim=16, num_heads=4, n_groups=2,
        num_hidden_layers=2, chunk_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = theirs.Mamba2ForCausalLM(config).eval()
    tokens = torch.randint(0, 29, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    x = model.backbone.embeddings(tokens)
    for block in model.backbone.layers:
        ours = Mamba2Config(d_state=8, head_dim=16, n_groups=2).build(32)
        ours.load_state_dict(block.mixer.state_dict())
        x = x + ours(block.norm(x))[0]
    logits = model.lm_head(model.backbone.norm_f(x))
    assert difference(logits, model(tokens).logits) < 1e-5


def test_published_sizes():
    """Of the layer, 2405.21060's code: 2 d_inner + 2 N + heads rows of in_proj, and so on."""
    mixer = Mamba2Config().build(768)
    assert mixer.in_proj.weight.shape == (3352, 768)
    assert sum(p.numel() for p in mixer.parameters()) == 3352 * 768 + 1792 * 5 + 3 * 24 + 1536 * 769


def test_initial_values():
    mixer = Mamba2Config().build(256)
    mixer.reset_parameters(torch.Generator().manual_seed(0), residual_scale=0.5)
    decays, delta = mixer.A_log.exp(), torch.nn.functional.softplus(mixer.dt_bias)
    assert decays.min() >= 1
    assert decays.max() <= 16
    assert delta.min() >= 0.999e-3
    assert delta.max() <= 0.1001
    assert mixer.out_proj.weight.abs().max() <= 0.5 * 512**-0.5


def test_bad_configurations_are_named():
    with pytest.raises(ValueError, match="head_dim must divide expand"):
        Mamba2Config(head_dim=48).build(32)
    with pytest.raises(ValueError, match="n_groups must divide n_heads = 4, got 3"):
        Mamba2Config(head_dim=16, n_groups=3).build(32)
