"""Outputs, steps and gradients of Mega's official moving average: data/golden/.

    git clone https://github.com/facebookresearch/mega
    python -m benchmarks.golden_mega_ema mega

It computes in float32 (its Fourier transforms do in any case).
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock, patch

import torch
from safetensors.torch import save_file

from ntlib.measuring import environment
from ntlib.results import write_atomically

TARGET = Path(__file__).resolve().parents[1] / "data" / "golden" / "mega-ema.safetensors"
FILE = "fairseq/modules/exponential_moving_average.py"
D_MODEL, STATES, BATCH, LENGTH, SEED = 5, 4, 2, 33, 0


def import_ema(checkout: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("official_ema", checkout / FILE)
    module = importlib.util.module_from_spec(spec)

    def with_incremental_state(cls):
        cls.get_incremental_state = lambda self, state, key: state.get(key)
        cls.set_incremental_state = lambda self, state, key, value: state.update({key: value})
        return cls

    decoding = MagicMock()
    decoding.with_incremental_state = with_incremental_state
    stubs = {"fairseq": MagicMock(), "fairseq.incremental_decoding_utils": decoding}
    with patch.dict(sys.modules, stubs):
        spec.loader.exec_module(module)
    return module


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
    commit = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    work = TARGET.with_suffix(".partial")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, work)
    work.replace(TARGET)
    provenance = {
        "source": f"https://github.com/facebookresearch/mega, MultiHeadEMA of {FILE}",
        "commit": commit,
        "licence": "MIT (the code); the numbers are random weights and what it computes with them",
        "command": "python -m benchmarks.golden_mega_ema <checkout>",
        "seed": SEED,
        "sizes": {"d_model": D_MODEL, "states": STATES, "batch": BATCH, "length": LENGTH},
        "environment": environment(),
    }
    described = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
    write_atomically(TARGET.with_suffix(".json"), described)
    print(TARGET)


if __name__ == "__main__":
    main(sys.argv[1])
