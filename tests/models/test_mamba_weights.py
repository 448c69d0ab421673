"""Published Mamba weights in both layouts: transformers' logits from the same numbers, and what is
wrong with a file."""

import json
import re

import pytest
import torch

from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.mamba2 import Mamba2Config
from ntlib.models import mamba_config
from ntlib.models.mamba_weights import from_tensors
from ntlib.models.published import load_published
from tests.mamba_files import HEAD, KERNEL, LAYERS, RANK, ROWS, STATE, D, config, random_weights
from tests.ops.battery import relative

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3]])
KINDS = {"Mamba": {"version": 1}, "Mamba-2": {"version": 2}, "groups": {"version": 2, "groups": 2}}
E1 = "backbone.layers.1.mixer."


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request):
    return request.param


def save(folder, weights, settings):
    """As mamba_ssm does; `settings` None: no config.json."""
    torch.save(weights, folder / "pytorch_model.bin")
    if settings is not None:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder / "pytorch_model.bin"


def theirs(weights, version, groups=1):
    """The model of transformers with these weights."""
    transformers = pytest.importorskip("transformers", reason="benchmarks/requirements.txt")
    sizes = {"vocab_size": ROWS, "hidden_size": D, "num_hidden_layers": LAYERS}
    sizes |= {"state_size": STATE, "conv_kernel": KERNEL, "tie_word_embeddings": True}
    if version == 1:
        settings = transformers.MambaConfig(**sizes, time_step_rank=RANK)
        model = transformers.MambaForCausalLM(settings)
    else:
        heads = {"head_dim": HEAD, "num_heads": 2 * D // HEAD, "n_groups": groups, "chunk_size": 8}
        model = transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**sizes, **heads))
    model.load_state_dict({n.replace("embedding.", "embeddings."): x for n, x in weights.items()})
    return model.eval()


@pytest.mark.peers
@torch.no_grad()
def test_logits_are_transformers_in_every_layout(kind, tmp_path):
    weights = random_weights(**kind)
    model = theirs(weights, **kind)
    expected = model(TOKENS).logits
    files = [save(tmp_path, weights, config(**kind))]
    for folder, most in (("whole", "1GB"), ("parts", "20KB")):
        model.save_pretrained(tmp_path / folder, max_shard_size=most)
    files += [tmp_path / "whole/model.safetensors"]
    files += [tmp_path / "parts/model.safetensors.index.json"]
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    for file in files:
        ours = load_published(file)
        assert ours.config == load_published(files[0]).config
        assert ours.head.weight is ours.embedding.weight
        assert relative(ours(TOKENS)[0], expected) < 1e-5, file
        states = ours(TOKENS[:, :9])[1]
        for t in range(9, TOKENS.shape[1]):
            logits, states = ours.step(TOKENS[:, t], states)
            assert relative(logits, expected[:, t]) < 1e-5, (file, t)


@torch.no_grad()
def test_a_prefill_leaves_the_states_of_steps(kind):
    model = from_tensors(random_weights(**kind), mamba_config.from_json(config(**kind)))
    _, whole = model(TOKENS)
    states = model.init_states(1)
    for token in TOKENS.unbind(1):
        _, states = model.step(token, states)
    for ours, expected in zip(states, whole, strict=True):
        for part, other in zip(ours, expected, strict=True):
            assert part.shape == other.shape
            assert relative(part, other) < 1e-5


def test_sizes_come_from_the_file_alone(tmp_path):
    told = mamba_config.from_json(config(1))
    assert told.vocab_size == ROWS  # 50 tokens, padded
    assert told.mixer == MambaConfig(STATE, KERNEL, dt_rank=RANK)
    file = save(tmp_path, random_weights(1), None)
    assert load_published(file).config == told
    told = mamba_config.from_json(config(2, state=128))
    assert told.mixer == Mamba2Config(128, HEAD, d_conv=KERNEL)
    file = save(tmp_path, random_weights(2, state=128), None)
    assert load_published(file).config == told
    with pytest.raises(ValueError, match=r"n_groups x d_state is 12, and only config.json"):
        from_tensors(random_weights(2, groups=2))


def test_published_values_are_what_a_short_config_means():
    sizes = {"d_model": 768, "n_layer": 24, "vocab_size": 50277}
    found = mamba_config.from_json(sizes | {"ssm_cfg": {}})
    assert (found.vocab_size, found.mixer, found.tied) == (50280, MambaConfig(), True)
    found = mamba_config.from_json(
        sizes | {"ssm_cfg": {"layer": "Mamba2"}, "pad_vocab_size_multiple": 16}
    )
    assert (found.vocab_size, found.mixer) == (50288, Mamba2Config())


@torch.no_grad()
def test_a_head_of_its_own(kind, tmp_path):
    weights = random_weights(**kind)
    settings = config(**kind, tie_embeddings=False)
    tied = load_published(save(tmp_path, weights, config(**kind)))(TOKENS)[0]
    weights["lm_head.weight"] = 2 * weights["lm_head.weight"]
    model = load_published(save(tmp_path, weights, settings))
    assert model.head.weight is not model.embedding.weight
    assert relative(model(TOKENS)[0], 2 * tied) < 1e-6
    with pytest.raises(ValueError, match=r"shares embedding and head, but in the file lm_head"):
        load_published(save(tmp_path, weights, config(**kind)))
    del weights["lm_head.weight"]
    with pytest.raises(ValueError, match=r"missing: lm_head.weight$"):
        load_published(save(tmp_path, weights, settings))


@torch.no_grad()
def test_types_are_converted_on_request_and_all_is_trainable(kind, tmp_path):
    file = save(tmp_path, random_weights(**kind), config(**kind))
    exact = load_published(file, torch.float64)(TOKENS)[0]
    rough = load_published(file, torch.bfloat16)
    assert rough.head.weight is rough.embedding.weight
    assert relative(rough(TOKENS)[0].double(), exact) < 0.1
    model = load_published(file).train()
    with torch.enable_grad():
        model(TOKENS)[0].square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    before = file.read_bytes()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert file.read_bytes() == before  # mapped, never written to


def test_all_that_is_missing_unexpected_or_of_wrong_shape_is_listed(kind):
    weights = random_weights(**kind)
    del weights["backbone.norm_f.weight"], weights[f"{E1}D"]
    weights["backbone.layers.2.mixer.in_proj.bias"] = torch.zeros(7)
    weights[f"{E1}out_proj.weight"] = weights[f"{E1}out_proj.weight"].T
    with pytest.raises(ValueError, match="weights do not fit") as error:
        from_tensors(weights, mamba_config.from_json(config(**kind)))
    name = "Mamba" if kind["version"] == 1 else "Mamba-2"
    assert str(error.value) == (
        f"weights do not fit a {name} of 3 layers, width 32: "
        "missing: backbone.layers.1.mixer.D, backbone.norm_f.weight; "
        "unexpected: backbone.layers.2.mixer.in_proj.bias; "
        "wrong shape: backbone.layers.1.mixer.out_proj.weight is (64, 32) instead of (32, 64)"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 4}, "the model has 4 layers, the file 3"),
        ({"d_model": 33}, r"wrong shape: backbone.embedding.weight is \(56, 32\) instead of"),
        ({"vocab_size": 60}, r"embedding.weight is \(56, 32\) instead of \(64, 32\)"),
        ({"vocab_size": None}, "vocab_size must be a positive whole number, it is None"),
        ({"d_model": "32"}, "d_model must be a positive whole number, it is '32'"),
        ({"attn_layer_idx": [1]}, r"attn_layer_idx must be \[\], other values are not supported"),
        ({"d_intermediate": 64}, "d_intermediate must be 0, other values"),
        ({"rms_norm": False}, "rms_norm must be True"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "layer must be 'Mamba1' or 'Mamba2', it is 'Mamba3'"),
        ({"ssm_cfg": {"layer": "Mamba2", "dt_limit": [0.0, 1.0]}}, "dt_limit must be "),
        ({"ssm_cfg": {"layer": "Mamba2", "norm_before_gate": True}}, "norm_before_gate must be"),
        ({"ssm_cfg": {"bias": True}}, "bias must be False"),
        ({"model_type": "falcon_mamba"}, "model_type must be 'mamba' or 'mamba2', it is 'falcon"),
        ({"model_type": "mamba"}, "hidden_size must be a positive whole number, it is None"),
    ],
    ids=str,
)
def test_a_config_that_does_not_serve_is_told(changes, message, tmp_path):
    file = save(tmp_path, random_weights(1), config(1, **changes))
    with pytest.raises(ValueError, match=rf"pytorch_model.bin: .*{message}"):
        load_published(file)


def test_other_configs_and_models_are_told(tmp_path):
    file = save(tmp_path, random_weights(1), {"hidden_size": 3})
    with pytest.raises(ValueError, match=r"neither model_type .* nor d_model and n_layer"):
        load_published(file)
    (tmp_path / "config.json").write_text('{"d_model": 32,')
    with pytest.raises(ValueError, match=r"config.json is no JSON file, or is cut short"):
        load_published(file)
    file = save(tmp_path, {"model.embed_tokens.weight": torch.zeros(3, 3)}, None)
    with pytest.raises(ValueError, match="neither RWKV's nor Mamba's weights: names begin model"):
        load_published(file)
    with pytest.raises(ValueError, match=r"no Mamba weights: no layer has mixer.A_log"):
        from_tensors({"backbone.layers.0.mixer.in_proj.weight": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match=r"quantised .* not: lm_head.weight"):
        from_tensors({"lm_head.weight": torch.zeros(3, 3, dtype=torch.uint8)})


def test_parts_that_do_not_make_a_whole(tmp_path):
    weights = random_weights(1)
    names = list(weights)
    parts = {"a.bin": names[:5], "b.bin": names[5:]}
    for file, held in parts.items():
        torch.save({name: weights[name] for name in held}, tmp_path / file)
    listed = {name: file for file, held in parts.items() for name in held}
    index = tmp_path / "pytorch_model.bin.index.json"

    def load(weight_map):
        index.write_text(json.dumps({"weight_map": weight_map}))
        return load_published(index)

    whole = from_tensors(weights)(TOKENS)[0]
    assert torch.equal(load(listed)(TOKENS)[0], whole)
    for wrong, message in (
        ({}, "is no index of weight files: it has no weight_map"),
        (listed | {"more": "a.bin"}, r"lists tensors that its files do not hold: \['more'\]"),
        (listed | {"more": "c.bin"}, r"there is no weight file .*c.bin"),
        (listed | {"more": "../a.bin"}, r"must list weight files of its own folder, .*'../a.bin'"),
        (listed | {"more": index.name}, "must list weight files of its own folder"),
    ):
        with pytest.raises(ValueError, match=message):
            load(wrong)
    index.write_text(json.dumps({"weight_map": listed})[:-9])
    with pytest.raises(ValueError, match=r"index.json is no JSON file, or is cut short"):
        load_published(index)
    with pytest.raises(ValueError, match=re.escape("b.bin: ") + r".*embedding.weight is missing"):
        load_published(tmp_path / "b.bin")
    (tmp_path / "b.bin").write_bytes((tmp_path / "b.bin").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"b.bin is no weight file, or is cut short"):
        load(listed)
