"""The battery over every mixer in every configuration that changes what it computes."""

import pytest
import torch

from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.complex_ema import ComplexEMAConfig
from ntlib.mixers.dss import DSSConfig
from ntlib.mixers.ema import DampedEMAConfig
from ntlib.mixers.h3 import H3Config
from ntlib.mixers.linear_attention import LinearAttentionConfig
from ntlib.mixers.lstm import LSTMConfig
from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.mamba2 import Mamba2Config
from ntlib.mixers.mamba3 import Mamba3Config
from ntlib.mixers.mamba_variants import MambaVariantConfig
from ntlib.mixers.mcsd import MCSDConfig
from ntlib.mixers.mega import MegaConfig
from ntlib.mixers.megalodon import MegalodonConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.mixers.rwkv4 import RWKV4Config
from ntlib.mixers.rwkv5 import RWKV5Config
from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv7 import RWKV7Config
from ntlib.mixers.rwkv_channel_mix import ChannelMixConfig
from ntlib.mixers.s4 import S4Config
from ntlib.mixers.s4d import S4DConfig
from ntlib.mixers.s4d_average import S4DAverageConfig
from ntlib.mixers.s5 import S5Config
from ntlib.mixers.timestep_norm import TimestepNormConfig
from tests.mixers import battery

CONFIGS = {
    "attention": AttentionConfig(n_heads=4),
    "grouped-query attention": AttentionConfig(n_heads=4, n_kv_heads=2),
    "multi-query attention": AttentionConfig(n_heads=4, n_kv_heads=1),
    "attention without positions": AttentionConfig(n_heads=4, rope_base=None),
    "attention with xPos": AttentionConfig(n_heads=4, xpos_base=16.0),
    "attention with absolute positions": AttentionConfig(n_heads=4, rope_base=None, absolute=True),
    "local attention": AttentionConfig(n_heads=4, window=5),
    "local attention, two heads of keys": AttentionConfig(n_heads=4, n_kv_heads=2, window=1),
    "strided attention": AttentionConfig(n_heads=4, stride=4),
    "strided attention, two heads of keys": AttentionConfig(n_heads=4, n_kv_heads=2, stride=3),
    "linear attention": LinearAttentionConfig(n_heads=4),
    "LSTM": LSTMConfig(),
    "Mamba": MambaConfig(d_state=5),
    "Mamba-2": Mamba2Config(d_state=5, head_dim=16),
    "Mamba-2, groups": Mamba2Config(d_state=5, head_dim=12, n_groups=2),
    "Mamba-3": Mamba3Config(d_state=6, head_dim=16),
    "Mamba-3, groups, all rows turn": Mamba3Config(
        d_state=4, head_dim=12, n_groups=2, rope_fraction=1.0
    ),
    "Mamba, step fixed, no gate": MambaVariantConfig(fixed=("delta",), gate=False, d_state=5),
    "Mamba, B and C fixed, no convolution": MambaVariantConfig(
        fixed=("B", "C"), d_state=5, d_conv=1
    ),
    "S4D in Mamba's block": MambaVariantConfig("S4D", d_state=6),
    "H3": H3Config(d_state=6),
    "retention": RetentionConfig(n_heads=3, chunk_size=4),
    "retention, group norm": RetentionConfig(
        n_heads=3, chunk_size=4, head_norm="group", value_factor=1
    ),
    "retention, row normalisation": RetentionConfig(
        n_heads=3, chunk_size=4, row_normalisation=True, decay="experiments"
    ),
    "RWKV-4": RWKV4Config(layer=1, n_layers=3),
    "RWKV-5": RWKV5Config(head_size=8, layer=1, n_layers=3),
    "RWKV-6": RWKV6Config(head_size=8, mix_rank=3, decay_rank=4, layer=1, n_layers=3),
    "RWKV-7": RWKV7Config(head_size=8, n_layers=3),
    "RWKV-7, later layer, doubled step": RWKV7Config(
        head_size=8, layer=1, n_layers=3, decay_rank=4, gate_rank=5, step=2.0
    ),
    "RWKV-4, channel mix": ChannelMixConfig(version=4),
    "RWKV-5, channel mix": ChannelMixConfig(version=5),
    "RWKV-6, channel mix": ChannelMixConfig(version=6, layer=1, n_layers=3),
    "RWKV-7, channel mix": ChannelMixConfig(version=7),
    "S4": S4Config(d_state=8, l_max=16),
    "S4, LegT": S4Config(d_state=6, l_max=16, measure="legt", n_ssm=3),
    "S4D-Lin": S4DConfig(d_state=8),
    "S4D-Inv": S4DConfig(d_state=8, init="inv", discretisation="bilinear", learn_b=True),
    "S4D-LegS": S4DConfig(d_state=8, init="legs"),
    "S4D-Real": S4DConfig(d_state=6, init="real"),
    "DSS": DSSConfig(d_state=8, l_max=512),
    "DSS, sequences longer than its softmax": DSSConfig(d_state=6, l_max=4),
    "S5": S5Config(d_state=10),
    "S5, blocks, bilinear": S5Config(
        d_state=12, blocks=3, discretisation="bilinear", gate="full", c_init="lecun_normal"
    ),
    "S5, clipped": S5Config(d_state=8, clip_poles=True, c_init="complex_normal"),
    "damped EMA": DampedEMAConfig(states=4),
    "damped EMA, no average": DampedEMAConfig(states=0),
    "S4D as an average": S4DAverageConfig(states=6),
    "complex EMA": ComplexEMAConfig(states=4),
    "timestep norm": TimestepNormConfig(groups=3),
    "MCSD": MCSDConfig(n_channels=4),
    "MCSD, training form": MCSDConfig(4, decay_norm="rows", row_length=16, fusion="concat"),
    "MCSD, by channel, one section twice": MCSDConfig(
        4, sections=("slope", "slope"), gate="sigmoid", projection="channel"
    ),
    "Mega": MegaConfig(z_dim=6, value_dim=10, states=4),
    "Mega, rotary, chunks": MegaConfig(
        z_dim=6, states=4, position_bias="rotary", chunk_size=4, norm="rmsnorm"
    ),
    "Mega, laplace": MegaConfig(z_dim=6, states=4, attention="laplace", prenorm=False),
    "Mega, relu2, chunks": MegaConfig(
        z_dim=6, states=4, attention="relu2", chunk_size=5, norm="scalenorm"
    ),
    "Mega, no average": MegaConfig(z_dim=6, states=0, chunk_size=4),
    "Mega, S4D": MegaConfig(z_dim=6, states=6, average="s4d", chunk_size=5),
    "Megalodon": MegalodonConfig(12, 9, n_heads=3, states=4, chunk_size=4, norm_groups=3),
    "Megalodon, block": MegalodonConfig(
        z_dim=6, states=4, chunk_size=5, norm_groups=2, ffn_dim=20, swiglu=True
    ),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("check", battery.CHECKS, ids=lambda check: check.__name__)
def test_battery(check, config):
    check(config)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_bad_shapes_are_named(config):
    mixer = battery.build(config)
    with pytest.raises(
        ValueError, match=r"x must be \(batch, length, d_model\).*d_model = 24; got \(2, 3, 5\)"
    ):
        mixer(torch.zeros(2, 3, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="x must be"):
        mixer(torch.zeros(2, 0, 24, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"x must be \(batch, d_model\)"):
        mixer.step(torch.zeros(2, 3, 24, dtype=torch.float64), mixer.init_state(2))
    if hasattr(config, "n_heads"):
        with pytest.raises(ValueError, match="must divide d_model = 25"):
            config.build(25)
