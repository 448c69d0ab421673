"""Outputs and gradients of the official `ssd_minimal_discrete` of Mamba-2: data/golden/.

    git clone https://github.com/state-spaces/mamba
    python -m benchmarks.golden_ssd mamba

The function is plain torch, but its module imports code for GPUs, which is replaced by empty
modules. It computes in the inputs' float64. Inputs are drawn again from the seed by the test.
"""

import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import torch

from benchmarks.golden import DIRECTORY, commit_of, keep
from benchmarks.official import import_file

TARGET = DIRECTORY / "ssd-minimal.safetensors"
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
    return import_file(path, {name: MagicMock() for name in STUBS})


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
    sizes = ("BATCH", "LENGTH", "HEADS", "D_HEAD", "D_STATE", "BLOCK")
    provenance = {
        "source": "https://github.com/state-spaces/mamba, ssd_minimal_discrete of "
        "mamba_ssm/modules/ssd_minimal.py",
        "commit": commit_of(Path(checkout)),
        "licence": "Apache-2.0 (the code); the numbers are what it computes from random ones",
        "command": "python -m benchmarks.golden_ssd <checkout>",
        "seed": SEED,
        "sizes": {name.lower(): globals()[name] for name in sizes},
    }
    keep(TARGET, arrays, provenance)


if __name__ == "__main__":
    main(sys.argv[1])
