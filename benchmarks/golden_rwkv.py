"""Logits of RWKV's author's own package, kept for readers who do not install it: data/golden/.

    python -m benchmarks.golden_rwkv

A small model of each version, 4 to 7, reads the same tokens. Its weights come from a seed by the
rule of `weights`, which the chapter repeats, so that only tokens and logits need to be kept. A test
makes the file again and compares.
"""

from importlib.metadata import version

import torch
from torch import Tensor

from benchmarks.golden import DIRECTORY, keep
from ntlib.mixers.rwkv4 import RWKV4Config
from ntlib.mixers.rwkv5 import RWKV5Config
from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv7 import RWKV7Config
from ntlib.models.rwkv import RWKVConfig
from tests.rwkv_peer import rwkv_logits

TARGET = DIRECTORY / "rwkv-logits.safetensors"
SIZES = {"vocab_size": 50, "d_model": 128, "n_layers": 2}
LENGTH, SEED = 24, 0
MIXERS = {4: RWKV4Config(), 5: RWKV5Config(), 6: RWKV6Config(), 7: RWKV7Config()}


@torch.no_grad()
def weights(number: int) -> dict[str, Tensor]:
    """Every parameter by its official name: random, by name in alphabetical order."""
    model = RWKVConfig(mixer=MIXERS[number], **SIZES).build()
    generator = torch.Generator().manual_seed(SEED)
    for _, parameter in sorted(model.named_parameters()):
        size = parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 0.3
        parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return model.state_dict()


def official(parts: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """What a file holds besides: block 0's value residual in version 7, which no code reads."""
    if number == 7:
        spare = {f"blocks.0.att.v{i}": parts[f"blocks.1.att.v{i}"] for i in range(3)}
        return parts | spare
    return parts


def golden() -> dict[str, Tensor]:
    """Tokens and logits by version."""
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(SIZES["vocab_size"], (LENGTH,), generator=generator)
    parts = {"tokens": tokens}
    for number in MIXERS:
        steps, prompt = rwkv_logits(official(weights(number), number), tokens.tolist(), number)
        parts |= {f"logits.{number}.steps": steps, f"logits.{number}.prompt": prompt}
    return {name: tensor.contiguous() for name, tensor in parts.items()}


def main() -> None:
    provenance = {
        "source": f"rwkv {version('rwkv')}, rwkv.model.RWKV, strategy 'cpu fp32'",
        "licence": "Apache-2.0 (the code); the numbers are what it computes from random weights",
        "command": "python -m benchmarks.golden_rwkv",
        "seed": SEED,
        "sizes": SIZES | {"length": LENGTH},
    }
    keep(TARGET, golden(), provenance)


if __name__ == "__main__":
    main()
