"""The cost model against real parameters, real bytes, the flop counter and published sizes."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ntlib import cost_model
from ntlib.measuring import tensor_bytes
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.complex_ema import ComplexEMAConfig
from ntlib.mixers.dss import DSSConfig
from ntlib.mixers.ema import DampedEMAConfig
from ntlib.mixers.linear_attention import LinearAttentionConfig
from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.mamba2 import Mamba2Config
from ntlib.mixers.mcsd import MCSDConfig
from ntlib.mixers.mega import MegaConfig
from ntlib.mixers.megalodon import MegalodonConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.mixers.rwkv4 import RWKV4Config
from ntlib.mixers.rwkv5 import RWKV5Config
from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv7 import RWKV7Config
from ntlib.mixers.s4 import S4Config
from ntlib.mixers.s4d import S4DConfig
from ntlib.mixers.s4d_average import S4DAverageConfig
from ntlib.mixers.s5 import S5Config
from ntlib.mixers.timestep_norm import TimestepNormConfig
from ntlib.models import presets
from ntlib.models.language_model import LanguageModel, ModelConfig, count_parameters
from ntlib.models.mega import MegaModelConfig
from ntlib.ops.compiled import reference

MIXERS = {
    "attention": AttentionConfig(4),
    "grouped-query": AttentionConfig(4, n_kv_heads=2),
    "local attention": AttentionConfig(4, window=16),
    "local, grouped-query": AttentionConfig(4, n_kv_heads=2, window=100),
    "strided attention": AttentionConfig(4, stride=8),
    "strided, grouped-query": AttentionConfig(4, n_kv_heads=2, stride=30),
    "linear attention": LinearAttentionConfig(4),
    "retention": RetentionConfig(4, chunk_size=16),
    "retention, group norm, row sums": RetentionConfig(
        4, head_norm="group", row_normalisation=True, value_factor=1
    ),
    "Mamba": MambaConfig(d_state=5, d_conv=3),
    "Mamba-2": Mamba2Config(d_state=6, head_dim=8, n_groups=2, d_conv=3),
    "RWKV-4": RWKV4Config(),
    "RWKV-5": RWKV5Config(head_size=8),
    "RWKV-6": RWKV6Config(head_size=8, mix_rank=3, decay_rank=5),
    "RWKV-7": RWKV7Config(head_size=8),
    "RWKV-7, a later layer": RWKV7Config(
        8, decay_rank=3, rate_rank=4, value_rank=5, gate_rank=6, layer=1, n_layers=2
    ),
    "S4D": S4DConfig(d_state=6),
    "S4D, LegS": S4DConfig(d_state=6, init="legs"),
    "S4": S4Config(d_state=6, l_max=16),
    "S4, shared systems": S4Config(d_state=6, measure="legt", l_max=16, n_ssm=4),
    "DSS": DSSConfig(d_state=6, l_max=16),
    "S5": S5Config(d_state=12, blocks=2),
    "S5, full gate": S5Config(d_state=12, gate="full"),
    "EMA": DampedEMAConfig(states=3),
    "complex EMA": ComplexEMAConfig(states=3),
    "timestep norm": TimestepNormConfig(groups=4),
    "MCSD": MCSDConfig(4),
    "MCSD, concatenated, by channel": MCSDConfig(4, fusion="concat", projection="channel"),
    "MCSD, one section": MCSDConfig(4, sections=("decay",)),
    "Mega": MegaConfig(8, 24, states=3, max_positions=70),
    "Mega-chunk": MegaConfig(8, 24, 3, "laplace", "rotary", chunk_size=16, norm="scalenorm"),
    "Mega, no average": MegaConfig(8, 24, states=0, chunk_size=16, norm="rmsnorm"),
    "Mega, S4D": MegaConfig(8, 24, states=6, chunk_size=16, average="s4d"),
    "S4D as an average": S4DAverageConfig(states=6),
    "Megalodon": MegalodonConfig(8, 24, n_heads=2, states=3, chunk_size=16, norm_groups=4),
    "Megalodon, block": MegalodonConfig(8, states=3, norm_groups=4, ffn_dim=20, swiglu=True),
}
HYBRID = tuple(MIXERS[name] for name in ("Mamba", "local attention", "attention"))
BIDIRECTIONAL = [
    S4DConfig(d_state=6, bidirectional=True),
    S4DAverageConfig(states=6, bidirectional=True),
    S4Config(d_state=6, l_max=16, bidirectional=True),
    S5Config(d_state=6, bidirectional=True),
    DampedEMAConfig(states=3, bidirectional=True),
    MegaConfig(8, 24, states=3, chunk_size=16, bidirectional=True, norm="rmsnorm"),
]
# numbers of state that the plain recurrence multiplies by a vector as a matrix, per token
PRODUCTS = {"RWKV-4": 0, "RWKV-5": 32 * 8, "RWKV-6": 32 * 8, "RWKV-7": 2 * 32 * 8}
PRODUCTS |= {"Mamba": 64 * 5, "Mamba-2": 64 * 6}


def config_of(mixer):
    return ModelConfig(61, 32, 3, mixer, ffn_dim=40)


@pytest.mark.parametrize("mixer", [*MIXERS.values(), HYBRID], ids=[*MIXERS, "hybrid"])
@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"ffn": "gelu"}, {"ffn_dim": 0}], ids=str)
def test_parameters_are_those_of_the_model(mixer, changes):
    config = replace(config_of(mixer), **changes)
    model = LanguageModel(config)
    assert cost_model.parameters(config) == count_parameters(model)
    assert cost_model.parameters(config, embeddings=False) == count_parameters(
        model, embeddings=False
    )


@pytest.mark.parametrize("mixer", [*MIXERS.values(), HYBRID], ids=[*MIXERS, "hybrid"])
def test_state_bytes_are_those_of_the_tensors(mixer):
    config = config_of(mixer)
    states = LanguageModel(config).init_states(5, capacity=70)
    assert cost_model.state_bytes(config, 70, batch_size=5) == tensor_bytes(states)


@pytest.mark.parametrize("config", BIDIRECTIONAL, ids=lambda config: type(config).__name__)
def test_a_layer_that_reads_both_ways_has_no_state(config):
    cost = cost_model.mixer_cost(config, 32)
    assert cost.parameters == count_parameters(config.build(32))
    assert cost.state_numbers(70) == cost.step_state_traffic(70) == 0


@pytest.mark.parametrize(("name", "products"), PRODUCTS.items(), ids=PRODUCTS.keys())
def test_projections_of_recurrences_are_those_of_the_counter(name, products):
    config, length = MIXERS[name], 7
    mixer, cost = config.build(32), cost_model.mixer_cost(config, 32)
    with FlopCounterMode(display=False) as counter, reference(), torch.no_grad():
        mixer(torch.zeros(1, length, 32), form="recurrent")
    assert counter.get_total_flops() == 2 * length * (cost.projections + products)
    assert cost.prefill_flops(length) == length * (2 * cost.projections + cost.recurrence)


@pytest.mark.parametrize("length", [16, 48, 53])
@pytest.mark.parametrize(
    "name",
    [
        "attention",
        "grouped-query",
        "local attention",
        "local, grouped-query",
        "strided attention",
        "strided, grouped-query",
        "linear attention",
        "retention",
    ],
)
def test_prefill_flops_are_those_of_the_counter(name, length):
    config = config_of(MIXERS[name])
    model = LanguageModel(config)
    # the fused attention kernel of CPUs is not known to the counter, the composed one is
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        reference(),
        torch.no_grad(),
    ):
        model(torch.zeros(2, length, dtype=torch.long))
    assert cost_model.prefill_flops(config, length, batch_size=2) == counter.get_total_flops()


@pytest.mark.parametrize("length", [16, 48, 53])
@pytest.mark.parametrize("name", ["Mega", "Mega-chunk", "Megalodon", "Megalodon, block"])
def test_attention_in_chunks_is_counted_to_the_last_product(name, length):
    mixer, cost = MIXERS[name].build(32), cost_model.mixer_cost(MIXERS[name], 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mixer(torch.zeros(1, length, 32))
    products = cost.prefill_flops(length) - length * cost.recurrent.recurrence
    assert counter.get_total_flops() == products


@pytest.mark.parametrize("changes", [{}, {"norm": "scalenorm", "prenorm": False}], ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_of_mega_models(changes, tied):
    mixer = replace(MIXERS["Mega-chunk"], **changes)
    config = MegaModelConfig(61, 32, 3, mixer, ffn_dim=40, tied=tied)
    assert cost_model.parameters(config) == count_parameters(config.build())
    states = config.build().init_states(2, capacity=16)
    assert cost_model.state_bytes(config, 16, batch_size=2) == tensor_bytes(states)


def test_prefill_of_a_mega_model_is_that_of_the_counter():
    config = MegaModelConfig(61, 32, 3, MIXERS["Mega-chunk"], ffn_dim=40)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        config.build()(torch.zeros(1, 53, dtype=torch.long))
    average = 3 * 53 * cost_model.mixer_cost(config.mixer, 32).recurrent.recurrence
    assert cost_model.prefill_flops(config, 53) - average == counter.get_total_flops()


def test_a_chunk_bounds_what_a_step_reads():
    full, chunked = (cost_model.mixer_cost(MIXERS[name], 32) for name in ("Mega", "Mega-chunk"))
    assert full.step_state_traffic(1000) - full.step_state_traffic(999) == 8 + 24
    assert chunked.step_state_traffic(1000) == chunked.step_state_traffic(1016)
    assert max(map(chunked.step_flops, range(64))) == chunked.step_flops(15)


def test_a_decoding_step_of_retnet_moves_weights_once_and_state_twice():
    config = config_of(MIXERS["retention"])
    step = cost_model.decode_step(config, context=1000, batch_size=3)
    embedding = 61 * 32
    weights = cost_model.parameters(config) - embedding - 32
    assert step.weight_bytes == 4 * weights
    assert step.state_bytes == 2 * cost_model.state_bytes(config, 1000, batch_size=3)
    assert step == cost_model.decode_step(config, context=8, batch_size=3)


def test_attention_reads_a_cache_that_grows():
    config = config_of(MIXERS["attention"])
    bytes_at = [cost_model.decode_step(config, context).state_bytes for context in (99, 199)]
    assert bytes_at[1] == 2 * bytes_at[0]
    grouped = config_of(MIXERS["grouped-query"])
    assert 2 * cost_model.decode_step(grouped, 99).state_bytes == bytes_at[0]


def test_a_hybrid_costs_what_its_layers_cost():
    hybrid = ModelConfig(61, 32, 3, HYBRID, ffn_dim=40)
    alone = [replace(hybrid, n_layers=1, mixer=mixer) for mixer in HYBRID]
    head = 2 * 32 * 61
    parts = sum(cost_model.prefill_flops(config, 48) - 48 * head for config in alone)
    assert cost_model.prefill_flops(hybrid, 48) == parts + 48 * head
    step, *steps = (cost_model.decode_step(c, 9, head=False) for c in (hybrid, *alone))
    for cost in ("flops", "weight_bytes", "state_bytes"):
        assert getattr(step, cost) == sum(getattr(part, cost) for part in steps)


@pytest.mark.parametrize(("size", "billions"), [("1.3B", 1.208), ("2.7B", 2.517), ("6.7B", 6.442)])
def test_published_retnet_sizes(size, billions):
    """12 d_model^2 per block; what is missing to the names is the embeddings."""
    with torch.device("meta"):
        model = LanguageModel(presets.retnet_paper(size))
    counted = count_parameters(model, embeddings=False)
    assert counted == cost_model.parameters(presets.retnet_paper(size), embeddings=False)
    assert abs(counted / 1e9 - billions) < 2e-3
    for n_kv_heads in (None, 4):
        rival = presets.transformer_paper(size, n_kv_heads)
        assert counted == cost_model.parameters(rival, embeddings=False)


@pytest.mark.parametrize(
    ("config", "parameters", "without_embedding"),
    [
        (presets.mamba("130m"), 129_135_360, 90_520_320),
        (presets.mamba("370m"), 371_516_416, 320_029_696),
        (presets.mamba("790m"), 793_204_224, 715_974_144),
        (presets.mamba("1.4b"), 1_372_178_432, 1_269_204_992),
        (presets.mamba("2.8b"), 2_768_345_600, 2_639_628_800),
        (presets.mamba2("130m"), 128_989_632, 90_368_448),
        (presets.mamba2("370m"), 368_346_624, 316_851_712),
        (presets.mamba2("780m"), 780_161_280, 702_918_912),
        (presets.mamba2("1.3b"), 1_343_757_312, 1_240_767_488),
        (presets.mamba2("2.7b"), 2_702_599_680, 2_573_862_400),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value.mixer).__name__,
)
def test_published_mamba_sizes(config, parameters, without_embedding):
    """The numbers of the released checkpoints, head and embedding shared."""
    with torch.device("meta"):
        model = LanguageModel(config)
    assert count_parameters(model) == cost_model.parameters(config) == parameters
    for count in (
        count_parameters(model, embeddings=False),
        cost_model.parameters(config, embeddings=False),
    ):
        assert count == without_embedding


@pytest.mark.parametrize("size", presets.RETNET_TORCHSCALE)
def test_released_configurations_build(size):
    config = presets.retnet_torchscale(size)
    with torch.device("meta"):
        assert count_parameters(LanguageModel(config)) == cost_model.parameters(config)


def test_unknown_sizes_and_mixers_are_named():
    with pytest.raises(ValueError, match=r"size must be one of 1.3B, 2.7B, 6.7B, got '7B'"):
        presets.retnet_paper("7B")
    with pytest.raises(TypeError, match="no cost model for a mixer of type str"):
        cost_model.mixer_cost("attention", 8)
