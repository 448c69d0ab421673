"""Outputs, steps and gradients of Mega's official moving average: data/golden/.

    git clone https://github.com/facebookresearch/mega
    python -m benchmarks.golden_mega_ema mega

It computes in float32 (its Fourier transforms do in any case).
"""

import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import torch

from benchmarks.golden import DIRECTORY, commit_of, keep
from benchmarks.official import import_file

TARGET = DIRECTORY / "mega-ema.safetensors"
FILE = "fairseq/modules/exponential_moving_average.py"
D_MODEL, STATES, BATCH, LENGTH, SEED = 5, 4, 2, 33, 0


def import_ema(checkout: Path) -> ModuleType:
    """The official module of the moving average, in a checkout."""

    def with_incremental_state(cls):
        cls.get_incremental_state = lambda self, state, key: state.get(key)
        cls.set_incremental_state = lambda self, state, key, value: state.update({key: value})
        return cls

    decoding = MagicMock()
    decoding.with_incremental_state = with_incremental_state
    stubs = {"fairseq": MagicMock(), "fairseq.incremental_decoding_utils": decoding}
    return import_file(checkout / FILE, stubs)


def golden(module: ModuleType) -> dict[str, torch.Tensor]:
    """Weights, input, output and gradients in one direction and in both, (batch, length, .)."""
    kept = {}
    for name, bidirectional in (("one-sided", False), ("two-sided", True)):
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            layer = module.MultiHeadEMA(D_MODEL, STATES, bidirectional)
            x = torch.randn(LENGTH, BATCH, D_MODEL, requires_grad=True)  # theirs: time first
        y = layer(x)
        weights = dict(layer.named_parameters())
        grads = torch.autograd.grad(y.sin().sum(), [x, *weights.values()])
        kept[f"{name}/x"], kept[f"{name}/y"] = x.transpose(0, 1), y.transpose(0, 1)
        kept[f"{name}/gradient.x"] = grads[0].transpose(0, 1)
        for (key, weight), grad in zip(weights.items(), grads[1:], strict=True):
            kept |= {f"{name}/weights.{key}": weight, f"{name}/gradient.{key}": grad}
        if not bidirectional:
            state = {"ema_state": {}}
            steps = [layer(x_t[None], incremental_state=state) for x_t in x.unbind(0)]
            kept[f"{name}/steps"] = torch.cat(steps).transpose(0, 1)
            kept[f"{name}/state"] = state["ema_state"]["prev_state"]
    return {name: value.detach().clone().contiguous() for name, value in kept.items()}


def main(checkout: str) -> None:
    arrays = golden(import_ema(Path(checkout)))
    provenance = {
        "source": f"https://github.com/facebookresearch/mega, MultiHeadEMA of {FILE}",
        "commit": commit_of(Path(checkout)),
        "licence": "MIT (the code); the numbers are random weights and what it computes with them",
        "command": "python -m benchmarks.golden_mega_ema <checkout>",
        "seed": SEED,
        "sizes": {"d_model": D_MODEL, "states": STATES, "batch": BATCH, "length": LENGTH},
    }
    keep(TARGET, arrays, provenance)


if __name__ == "__main__":
    main(sys.argv[1])
