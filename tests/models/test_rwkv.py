"""The RWKV language model: one computation in all its forms, states of the published size, and the
same interface as every other model."""

from dataclasses import dataclass, replace

import pytest
import torch

from ntlib.experiments import Run, execute
from ntlib.measuring import tensor_bytes
from ntlib.mixers.rwkv4 import RWKV4Config
from ntlib.mixers.rwkv5 import RWKV5Config
from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv7 import RWKV7Config
from ntlib.models.generation import Sampling, generate
from ntlib.models.language_model import count_parameters
from ntlib.models.rwkv import RWKVConfig
from ntlib.tasks.batch import Batch
from ntlib.training import TrainConfig, make_optimizer
from tests import rwkv_files

MIXERS = {
    4: RWKV4Config(),
    5: RWKV5Config(),
    6: RWKV6Config(mix_rank=rwkv_files.MIX_RANK, decay_rank=rwkv_files.DECAY_RANK),
    7: RWKV7Config(decay_rank=24, rate_rank=16, value_rank=8, gate_rank=40),
}
VOCAB, D, LAYERS, FFN = 31, 128, 3, 160


def config_of(version, **changes):
    return replace(RWKVConfig(VOCAB, D, LAYERS, MIXERS[version], FFN), **changes)


def model_of(version):
    """A model whose every parameter matters: at its official start most maps are zero."""
    model = config_of(version).build(torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def tokens(*shape):
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=MIXERS)
def version(request):
    return request.param


@torch.no_grad()
def test_prefill_and_steps_continue_each_other(version):
    model, text = model_of(version), tokens(2, 12)
    whole, _ = model(text)
    for cut in (1, 5, 11):
        logits, states = model(text[:, :cut])
        assert torch.allclose(logits, whole[:, :cut])
        assert torch.allclose(model(text[:, cut:], states)[0], whole[:, cut:])
        for t in range(cut, 12):
            logits, states = model.step(text[:, t], states)
            assert torch.allclose(logits, whole[:, t])
    states = model.init_states(2)
    for t in range(12):
        logits, states = model.step(text[:, t], states)
        assert torch.allclose(logits, whole[:, t])


@torch.no_grad()
def test_logits_depend_on_no_later_token_and_on_no_other_sequence(version):
    model, text = model_of(version), tokens(3, 10)
    changed = text.clone()
    changed[:, 7:] = (text[:, 7:] + 1) % VOCAB
    changed[1] = (text[1] + 1) % VOCAB
    before, after = model(text)[0], model(changed)[0]
    assert torch.allclose(before[[0, 2], :7], after[[0, 2], :7], rtol=0, atol=1e-12)
    assert not torch.allclose(before[0, 7:], after[0, 7:])


@torch.no_grad()
def test_generation_equals_full_passes_also_of_a_prompt_in_pieces(version, monkeypatch):
    monkeypatch.setattr("ntlib.models.generation.PIECE", 4)
    model, text = model_of(version), tokens(3, 10)
    new = generate(model, text, 5, Sampling(temperature=0))
    for _ in range(5):
        text = torch.cat([text, model(text)[0][:, -1:].argmax(-1)], dim=1)
    assert torch.equal(new, text[:, 10:])


def test_names_and_shapes_are_those_of_the_official_files(version):
    sizes = {"vocab": VOCAB, "d": D, "layers": LAYERS, "ffn": FFN}
    official = rwkv_files.shapes(version, **sizes)
    ours = {name: tuple(x.shape) for name, x in config_of(version).build().state_dict().items()}
    unused = {f"blocks.0.att.v{i}" for i in range(3)} if version == 7 else set()
    assert ours == {name: shape for name, shape in official.items() if name not in unused}


def test_state_sizes_are_the_published_ones(version):
    """RWKV-4: 5 D L numbers; from version 5 on (N + 2) D L."""
    model = config_of(version).build()
    numbers = {4: 5}.get(version, rwkv_files.N + 2) * D * LAYERS
    states = model.init_states(3)
    assert tensor_bytes(states) == 3 * 4 * numbers
    with torch.no_grad():
        assert tensor_bytes(model(tokens(3, 40))[1]) == 3 * 4 * numbers
        assert tensor_bytes(model.step(tokens(3), states)[1]) == 3 * 4 * numbers


def test_the_state_size_that_the_author_prints(version):
    """RWKV-LM's README: RWKV-7 L24-D1024 has 1.622016 M numbers of state; 5 and 6 have the same."""
    if version == 4:
        return
    with torch.device("meta"):
        states = config_of(version, d_model=1024, n_layers=24).build().init_states(1)
    assert tensor_bytes(states) == 4 * 1_622_016


def test_a_seed_fixes_the_weights_whatever_the_global_state(version):
    torch.manual_seed(1)
    first = config_of(version).build(torch.Generator().manual_seed(0))
    torch.manual_seed(2)
    second = config_of(version).build(torch.Generator().manual_seed(0))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_the_official_start(version):
    """Every block adds nothing, so that logits are those of the normalised embedding; the tables
    have the official sizes."""
    model = config_of(version, vocab_size=512).build(torch.Generator().manual_seed(0))
    text = torch.randint(512, (2, 9), generator=torch.Generator().manual_seed(1))
    h = model.ln_out(model.blocks[0].ln0(model.emb(text)))
    assert torch.allclose(model(text)[0], model.head(h), atol=1e-6)
    assert model.emb.weight.abs().max() < (1e-3 if version == 4 else 1e-4 + 1e-9)
    size = 0.5 * (512 / D) ** 0.5
    gram = model.head.weight.T @ model.head.weight
    assert torch.allclose(gram, size**2 * torch.eye(D), atol=1e-5)


@torch.no_grad()
def test_bfloat16_stays_close(version):
    exact, text = model_of(version), tokens(2, 200)
    rough = config_of(version).build()
    rough.load_state_dict(exact.state_dict())
    expected = exact(text)[0]
    logits, states = rough.bfloat16()(text)
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).abs().max() < 0.15 * expected.abs().max()
    logits, _ = rough.step(text[:, 0], states)
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


def test_parameters_are_counted_with_and_without_tables(version):
    model = config_of(version).build()
    tables = 2 * VOCAB * D
    assert count_parameters(model) - count_parameters(model, embeddings=False) == tables


def test_only_weights_of_maps_are_decayed(version):
    """What the author asks for: large matrices, not mixtures, rates, norms or low-rank maps."""
    config = TrainConfig(steps=1, batch_size=1, lr=1e-3)
    model = config_of(version).build()
    decayed = {id(p) for p in make_optimizer(model, config).param_groups[0]["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    linears = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert names == linears | {"emb.weight"}


@dataclass(frozen=True)
class Previous:
    """Predict the token before: impossible without a look back."""

    vocab_size: int = 8

    def sample(self, batch_size, generator):
        inputs = torch.randint(self.vocab_size, (batch_size, 6), generator=generator)
        targets = inputs.roll(1, dims=1)
        targets[:, 0] = 0
        return Batch(inputs, targets)

    def held_out(self, count):
        return self.sample(count, torch.Generator().manual_seed(10**6))


def test_it_trains_in_a_run(version):
    config = config_of(version, vocab_size=8, d_model=64, n_layers=2)
    train = TrainConfig(steps=60, batch_size=16, lr=1e-2, eval_every=60, held_out=16)
    run = Run(f"RWKV-{version}", config, Previous(), train)
    rows = execute(run)
    assert rows["token_accuracy"].iloc[-1] > 0.9
    assert run.key() != replace(run, model=replace(config, ffn_dim=96)).key()


def test_bad_input_is_named(version):
    with pytest.raises(
        ValueError, match=r"tokens must be \(batch, length\), not empty, got \(2, 0\)"
    ):
        model_of(version)(torch.zeros(2, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="n_layers must be at least 1, got 0"):
        config_of(version, n_layers=0).build()
