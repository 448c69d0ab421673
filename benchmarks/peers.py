"""Mixers that others wrote, as contenders. Each function imports its package when it is called, and
raises ImportError where it is missing; nothing here is needed to read the book."""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from benchmarks.contenders import D_MODEL, Contender, decoder_of
from benchmarks.golden_mega_ema import import_ema
from benchmarks.golden_s4 import import_standalone
from tests.rwkv_files import random_weights
from tests.torchscale_peer import import_torchscale


def mambapy() -> Contender:
    """Mamba-1 with a parallel scan."""
    from mambapy.mamba import MambaBlock, MambaConfig

    config = MambaConfig(d_model=D_MODEL, n_layers=1)
    block = MambaBlock(config)

    empty = (None, torch.zeros(1, config.d_inner, config.d_conv - 1))
    return Contender(block, list(block.parameters()), decoder_of(block.step, empty))


def transformers_mamba2(d_state: int, chunk_size: int) -> Contender:
    """Mamba-2; heads of 64 channels, one group, as in its released configurations."""
    from transformers import DynamicCache, Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=D_MODEL,
        num_heads=2 * D_MODEL // 64,
        head_dim=64,
        state_size=d_state,
        n_groups=1,
        chunk_size=chunk_size,
        num_hidden_layers=1,
    )
    mixer = Mamba2Mixer(config, layer_idx=0)

    def decoder():
        cache = DynamicCache(config=config)
        # recurrent steps need a state, which only reading a prompt makes
        mixer(torch.zeros(1, 4, D_MODEL), cache=cache)
        return lambda x_t: mixer(x_t[:, None], cache=cache)

    return Contender(mixer, list(mixer.parameters()), decoder)


def transformers_rwkv4() -> Contender:
    from transformers import RwkvConfig
    from transformers.models.rwkv.modeling_rwkv import RwkvSelfAttention

    config = RwkvConfig(hidden_size=D_MODEL, num_hidden_layers=1)
    mixer = RwkvSelfAttention(config)
    for name, x in mixer.named_parameters():  # some are memory that was never written
        if not name.endswith("weight"):
            nn.init.uniform_(x)

    def decoder():
        state = [torch.zeros(1, D_MODEL, 1) for _ in range(5)]
        state[4] -= 1e30
        return lambda x_t: mixer(x_t[:, None], state=state, use_cache=True)

    return Contender(lambda x: mixer(x)[0], list(mixer.parameters()), decoder)


def torchscale_retnet(chunk_size: int) -> Contender:
    """RetNet by its authors, chunkwise, values as wide as the model."""
    torchscale = import_torchscale()
    args = SimpleNamespace(
        multiway=False,
        layernorm_eps=1e-6,
        decoder_embed_dim=D_MODEL,
        decoder_retention_heads=4,
        recurrent_chunk_size=chunk_size,
    )
    mixer = torchscale.MultiScaleRetention(args, D_MODEL, D_MODEL, 4)
    position = torchscale.RetNetRelPos(args)
    tables = {}  # by length, made before the clock starts

    def forward(x):
        length = x.shape[1]
        if length not in tables:
            tables[length] = position(length, chunkwise_recurrent=True)
        return mixer(x, tables[length], chunkwise_recurrent=True)

    def decoder():
        state, t = {}, 0

        def step(x_t):
            nonlocal t
            t += 1
            at = position(t, activate_recurrent=True)
            return mixer(x_t[:, None], at, incremental_state=state)

        return step

    return Contender(forward, list(mixer.parameters()), decoder)


def rwkv_package(version: int) -> Contender:
    """A whole model of one block (both mixers, the embedding, a head of 64 words): the package has
    no smaller piece. Inference, one sequence; what it is given is the number of tokens, not x."""
    model = _rwkv_model(version)

    def forward(x):
        return model.forward([1] * x.shape[1], None, full_output=True)[0]

    decoder = decoder_of(lambda x_t, state: model.forward([1], state), None)
    return Contender(forward, decoder=decoder, trains=False, batches=False)


def _rwkv_model(version: int):
    # The package reads its switches at import and replaces its class for version 7.
    os.environ |= {"RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0", "RWKV_V7_ON": str(int(version == 7))}
    for name in [name for name in sys.modules if name.split(".")[0] == "rwkv"]:
        del sys.modules[name]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        from rwkv.model import RWKV

        sizes = {"vocab": 64, "d": D_MODEL, "layers": 1, "ffn": 4 * D_MODEL}
        path = Path(folder) / "model"
        torch.save(random_weights(version, **sizes), path.with_suffix(".pth"))
        return RWKV(model=str(path), strategy="cpu fp32")


def official_s4d(checkout: Path) -> Contender:
    """The minimal S4D module of state-spaces/s4: convolution, GELU and a gated output map."""
    module = import_standalone(checkout, "s4d.py")
    layer = module.S4D(D_MODEL, d_state=64, transposed=False)
    return Contender(lambda x: layer(x)[0], list(layer.parameters()))


def official_ema(checkout: Path) -> Contender:
    """The damped moving average of facebookresearch/mega, with its skip connection and SiLU."""
    layer = import_ema(checkout).MultiHeadEMA(D_MODEL, ndim=16)

    def decoder():
        state = {"ema_state": {}}
        return lambda x_t: layer(x_t[None], incremental_state=state)

    # theirs puts time first
    return Contender(lambda x: layer(x.transpose(0, 1)), list(layer.parameters()), decoder)
