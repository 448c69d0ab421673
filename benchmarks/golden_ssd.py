"""Outputs and gradients of the official `ssd_minimal_discrete` of Mamba-2: data/golden/.

    git clone https://github.com/state-spaces/mamba
    python -m benchmarks.golden_ssd mamba

The function is plain torch, but its module imports code for GPUs, which is replaced by empty
modules. It computes in the inputs' float64. Inputs are drawn again from the seed by the test.
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

TARGET = Path(__file__).resolve().parents[1] / "data" / "golden" / "ssd-minimal.safetensors"
BATCH, LENGTH, HEADS, D_HEAD, D_STATE, BLOCK, SEED = 2, 32, 3, 6, 4, 8, 0
STUBS = ("mamba_ssm", "mamba_ssm.ops.triton", "mamba_ssm.ops.triton.ssd_combined")


def inputs() -> dict[str, torch.Tensor]:
    """In their layout, (batch, length, heads, .); float64. X is Delta x and A is Delta A; some
    steps forget all."""
    generator = torch.Generator().manual_seed(SEED)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    decays = -draw(BATCH, LENGTH, HEADS).abs()
    decays[:, ::7] *= 40
    return {
        "X": draw(BATCH, LENGTH, HEADS, D_HEAD),
        "A": decays,
        "B": draw(BATCH, LENGTH, HEADS, D_STATE),
        "C": draw(BATCH, LENGTH, HEADS, D_STATE),
        "state": draw(BATCH, HEADS, D_HEAD, D_STATE),
    }


def loss(y: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
    """The number whose gradients are kept."""
    return y.sin().sum() + final.sin().sum()


def import_reference(checkout: Path) -> ModuleType:
    """mamba_ssm/modules/ssd_minimal.py of a checkout."""
    path = checkout / "mamba_ssm" / "modules" / "ssd_minimal.py"
    spec = importlib.util.spec_from_file_location("ssd_minimal", path)
    module = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, {name: MagicMock() for name in STUBS}):
        spec.loader.exec_module(module)
    return module


def golden(reference: ModuleType) -> dict[str, torch.Tensor]:
    """Outputs, the final state and all gradients."""
    given = {name: x.requires_grad_() for name, x in inputs().items()}
    *sequences, state = given.values()
    y, final = reference.ssd_minimal_discrete(*sequences, BLOCK, state[:, None])
    grads = torch.autograd.grad(loss(y, final), list(given.values()))
    kept = {"Y": y, "final": final}
    kept |= {f"gradient of {name}": grad for name, grad in zip(given, grads, strict=True)}
    return {name: x.detach().contiguous() for name, x in kept.items()}


def main(checkout: str) -> None:
    arrays = golden(import_reference(Path(checkout)))
    commit = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    work = TARGET.with_suffix(".partial")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, work)
    work.replace(TARGET)
    sizes = ("BATCH", "LENGTH", "HEADS", "D_HEAD", "D_STATE", "BLOCK")
    provenance = {
        "source": "https://github.com/state-spaces/mamba, ssd_minimal_discrete of "
        "mamba_ssm/modules/ssd_minimal.py",
        "commit": commit,
        "licence": "Apache-2.0 (the code); the numbers are what it computes from random ones",
        "command": "python -m benchmarks.golden_ssd <checkout>",
        "seed": SEED,
        "sizes": {name.lower(): globals()[name] for name in sizes},
        "environment": environment(),
    }
    described = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
    write_atomically(TARGET.with_suffix(".json"), described)
    print(TARGET)


if __name__ == "__main__":
    main(sys.argv[1])
