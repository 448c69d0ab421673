"""Published RWKV weights: the author's logits from the same file, and what is wrong with a file."""

import os
import re

import pytest
import torch
from safetensors.torch import save_file

from ntlib.models.published import load_published
from ntlib.models.rwkv import RWKVConfig
from ntlib.models.rwkv_weights import from_tensors, infer_config
from tests.rwkv_files import SIZES, random_weights
from tests.rwkv_peer import rwkv_logits

VERSIONS = [4, 5, 6, 7]
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3, 3, 8, 3, 2, 7]


def save(weights, path):
    """As a file of the author; the order of its tensors means nothing and is turned round."""
    torch.save(dict(reversed(weights.items())), path)
    return path


@pytest.fixture(scope="module", params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture(scope="module")
def file(version, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return save(random_weights(version), folder / f"rwkv-{version}.pth")


@pytest.mark.peers
@pytest.mark.parametrize("layers", [3, 2])
@torch.no_grad()
def test_logits_are_the_authors(version, layers, tmp_path):
    weights = random_weights(version, seed=layers, layers=layers)
    model = load_published(save(weights, tmp_path / "model.pth"))
    steps, prompt = rwkv_logits(weights, TOKENS, version)
    logits, states = model(torch.tensor([TOKENS]))
    assert (logits[0] - prompt).abs().max() < 1e-4 * prompt.abs().max()
    half = len(TOKENS) // 2
    states = model(torch.tensor([TOKENS[:half]]))[1]
    for t in range(half, len(TOKENS)):
        logits, states = model.step(torch.tensor([TOKENS[t]]), states)
        assert (logits[0] - steps[t]).abs().max() < 1e-4 * steps.abs().max(), t


def test_one_layer_loads_with_and_without_what_nothing_reads(version):
    weights = random_weights(version, layers=1)
    kept = {name: x for name, x in weights.items() if not name.startswith("blocks.0.att.v")}
    models = [
        from_tensors(weights),
        from_tensors(kept | {n: weights[n] for n in weights if "value" in n}),
    ]
    outputs = [model(torch.tensor([TOKENS]))[0] for model in models]
    assert torch.equal(*outputs)


def test_version_and_sizes_come_from_names_and_shapes(version, file):
    config = infer_config(torch.load(file, weights_only=True))
    assert config.version == version
    assert config.vocab_size == SIZES["vocab"]
    assert (config.d_model, config.n_layers) == (SIZES["d"], SIZES["layers"])
    assert config.ffn_dim == SIZES["ffn"]
    assert isinstance(config, RWKVConfig)


@torch.no_grad()
def test_safetensors_load_the_same(version, file, tmp_path):
    save_file(torch.load(file, weights_only=True), tmp_path / "model.safetensors")
    text = torch.tensor([TOKENS])
    same = load_published(tmp_path / "model.safetensors")(text)[0]
    assert torch.equal(load_published(file)(text)[0], same)


def test_old_torch_files_load(version, tmp_path):
    weights = random_weights(version)
    path = tmp_path / "old.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_published(path).head.weight, weights["head.weight"])


def test_what_is_loaded_can_be_saved_and_loaded_and_trained(version, file, tmp_path):
    model = load_published(file)
    torch.save(model.state_dict(), tmp_path / "again.pth")
    again = load_published(tmp_path / "again.pth").train()
    text = torch.tensor([TOKENS])
    assert torch.equal(model(text)[0], again(text)[0])
    again(text)[0].square().mean().backward()
    assert all(p.grad is not None for p in again.parameters())
    before = file.read_bytes()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert file.read_bytes() == before  # weights are mapped from the file, never written to it


@torch.no_grad()
def test_types_are_converted_on_request(version, file, tmp_path):
    assert load_published(file).head.weight.dtype == torch.float32
    exact = load_published(file, torch.float64)(torch.tensor([TOKENS]))[0]
    rough = load_published(file, torch.bfloat16)(torch.tensor([TOKENS]))[0]
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()
    half = {
        name: x if "time" in name else x.bfloat16() for name, x in random_weights(version).items()
    }
    mixed = from_tensors(half)  # as some released files: decays in float32, matrices are not
    kinds = {p.dtype for p in mixed.parameters()}
    assert len(kinds) == 1


@torch.no_grad()
def test_names_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 7, "intermediate_size": 96, "vocab_size": 50}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = transformers.RwkvForCausalLM(transformers.RwkvConfig(**sizes))
    # most of what it starts with is zero or the same for all
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in theirs.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)  # before eval(), which divides weights in place
    logits = theirs.eval()(torch.tensor([TOKENS])).logits
    ours = load_published(tmp_path / "model.safetensors")(torch.tensor([TOKENS]))[0]
    assert (ours - logits).abs().max() < 1e-4 * logits.abs().max()


def broken(version, change):
    """The message about a file with one change."""
    weights = random_weights(version)
    change(weights)
    with pytest.raises(ValueError, match=r"weights|is missing") as error:
        from_tensors(weights)
    return str(error.value)


def test_all_that_is_missing_unexpected_or_of_wrong_shape_is_listed(version):
    def change(weights):
        del weights["blocks.1.att.key.weight"], weights["ln_out.bias"]
        weights["blocks.2.att.surprise"] = torch.zeros(3)
        weights["blocks.0.ffn.value.weight"] = weights["blocks.0.ffn.value.weight"].T
        weights["head.weight"] = weights["head.weight"][:7]

    assert broken(version, change) == (
        f"weights do not fit an RWKV-{version} of 3 layers, width 128: "
        "missing: blocks.1.att.key.weight, ln_out.bias; "
        "unexpected: blocks.2.att.surprise; "
        "wrong shape: blocks.0.ffn.value.weight is (192, 128) instead of (128, 192), "
        "head.weight is (7, 128) instead of (50, 128)"
    )


def test_long_lists_are_cut(version):
    def change(weights):
        for name in [name for name in weights if name.startswith("blocks.1.")]:
            del weights[name]

    assert re.search(r"missing: blocks\.1\..* and \d+ more$", broken(version, change))


def test_one_odd_block_is_blamed_not_the_others(version):
    def change(weights):
        name = "blocks.0.ffn.key.weight"
        weights[name] = torch.zeros(7, 128)

    assert broken(version, change).endswith(
        "wrong shape: blocks.0.ffn.key.weight is (7, 128) instead of (192, 128)"
    )


@pytest.mark.parametrize("name", ["emb.weight", "ffn.key.weight"])
def test_a_size_that_nothing_tells(version, name):
    def change(weights):
        for full in [full for full in weights if full.endswith(name)]:
            del weights[full]

    assert f"{name} is missing: its shape tells a size of the model" in broken(version, change)


def test_other_models_and_versions_are_told():
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(ValueError, match=r"emb.weight is missing"):
        from_tensors({name: torch.zeros(3, 3) for name in names})
    names = ["emb.weight", "head.weight", "blocks.0.attn.c_proj.weight"]
    with pytest.raises(ValueError, match=r"no RWKV weights of version 4, 5.2, 6 or 7"):
        from_tensors({name: torch.zeros(3, 3) for name in names})
    early = random_weights(4) | {"blocks.0.att.ln_x.weight": torch.zeros(128)}
    with pytest.raises(ValueError, match=r"RWKV 5.0 or 5.1, early forms"):
        from_tensors(early)
    with pytest.raises(ValueError, match=r"wrong shape: |missing: "):
        from_tensors(random_weights(4) | {"blocks.99999999.att.key.weight": torch.zeros(2)})


def test_quantised_weights_are_refused():
    weights = random_weights(4)
    weights["blocks.1.att.key.weight"] = weights["blocks.1.att.key.weight"].to(torch.uint8)
    with pytest.raises(ValueError, match=r"quantised .* not: blocks.1.att.key.weight"):
        from_tensors(weights)


class Malicious:
    """What a pickle may hold: a call that unpickling makes."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, zipped):
    path, trace = tmp_path / "evil.pth", tmp_path / "it-ran"
    weights = random_weights(4) | {"blocks.0.att.extra": Malicious(trace)}
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil.pth holds more than tensors: .*mkdir. It was not"):
        load_published(path)
    assert not trace.exists()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999999])
@pytest.mark.parametrize("kind", ["pth", "old", "safetensors"])
def test_a_file_cut_short_is_told(tmp_path, kind, share):
    path = tmp_path / "model"
    if kind == "safetensors":
        save_file(random_weights(4), path)
    else:
        torch.save(random_weights(4), path, _use_new_zipfile_serialization=kind == "pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"model is no weight file, or is cut short: "):
        load_published(path)


def test_files_of_another_kind_are_told(tmp_path):
    path = tmp_path / "some"
    with pytest.raises(ValueError, match=r"there is no weight file .*some"):
        load_published(path)
    path.write_text("These are not weights, but a letter.\n")
    with pytest.raises(ValueError, match=r"some is no weight file"):
        load_published(path)
    for held, message in (
        ([torch.zeros(3)], "must hold named tensors, it holds a list"),
        ({"model": {"emb.weight": torch.zeros(3, 3)}}, r"these are none: \['model'\]"),
    ):
        torch.save(held, path)
        with pytest.raises(ValueError, match=message):
            load_published(path)
