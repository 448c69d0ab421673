"""Outputs and gradients of the official `selective_scan_ref`: data/golden/.

    git clone https://github.com/state-spaces/mamba
    python -m benchmarks.golden_selective_scan mamba

The reference is plain torch, but its module imports code for GPUs, which is replaced by empty
modules. It computes in float32. Inputs are drawn again from the seed by the test.
"""

import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import torch

from benchmarks.golden import DIRECTORY, commit_of, keep
from benchmarks.official import import_file

TARGET = DIRECTORY / "selective-scan.safetensors"
CASES = {"whole": (), "no gate": ("gate",), "no D": ("D",), "bare": ("D", "gate")}
BATCH, LENGTH, CHANNELS, D_STATE, SEED = 2, 37, 6, 4, 0
STUBS = (
    "mamba_ssm",
    "mamba_ssm.utils",
    "mamba_ssm.utils.torch",
    "mamba_ssm.ops.triton",
    "mamba_ssm.ops.triton.layer_norm",
)


def inputs(case: str) -> dict[str, torch.Tensor]:
    """As selective_scan takes them, without those the case leaves out; float32."""
    generator = torch.Generator().manual_seed(SEED)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    drawn = {
        "x": draw(BATCH, LENGTH, CHANNELS),
        "delta": draw(BATCH, LENGTH, CHANNELS).exp() / 4,
        "A": -draw(CHANNELS, D_STATE).exp(),
        "B": draw(BATCH, LENGTH, D_STATE),
        "C": draw(BATCH, LENGTH, D_STATE),
        "D": draw(CHANNELS),
        "gate": draw(BATCH, LENGTH, CHANNELS),
    }
    return {name: x for name, x in drawn.items() if name not in CASES[case]}


def loss(y: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
    """The number whose gradients are kept."""
    return y.sin().sum() + final.sin().sum()


def import_reference(checkout: Path) -> ModuleType:
    """mamba_ssm/ops/selective_scan_interface.py of a checkout."""
    path = checkout / "mamba_ssm" / "ops" / "selective_scan_interface.py"
    return import_file(path, {name: MagicMock() for name in STUBS})


def golden(reference: ModuleType) -> dict[str, torch.Tensor]:
    """Outputs, final states and gradients of every case, in our layout."""
    kept = {}
    for case in CASES:
        given = {name: x.requires_grad_() for name, x in inputs(case).items()}
        # theirs: (batch, channels, length)
        theirs = {n: x.transpose(1, 2) if x.dim() == 3 else x for n, x in given.items()}
        y, final = reference.selective_scan_ref(
            *(theirs[name] for name in ("x", "delta", "A", "B", "C")),
            D=theirs.get("D"),
            z=theirs.get("gate"),
            return_last_state=True,
        )
        y = y.transpose(1, 2)
        grads = torch.autograd.grad(loss(y, final), list(given.values()))
        kept |= {f"{case}.y": y, f"{case}.final": final}
        kept |= {f"{case}.gradient of {n}": g for n, g in zip(given, grads, strict=True)}
    return {name: x.detach().contiguous() for name, x in kept.items()}


def main(checkout: str) -> None:
    arrays = golden(import_reference(Path(checkout)))
    provenance = {
        "source": "https://github.com/state-spaces/mamba, selective_scan_ref of "
        "mamba_ssm/ops/selective_scan_interface.py",
        "commit": commit_of(Path(checkout)),
        "licence": "Apache-2.0 (the code); the numbers are what it computes from random ones",
        "command": "python -m benchmarks.golden_selective_scan <checkout>",
        "seed": SEED,
        "sizes": {
            "batch": BATCH,
            "length": LENGTH,
            "channels": CHANNELS,
            "d_state": D_STATE,
        },
    }
    keep(TARGET, arrays, provenance)


if __name__ == "__main__":
    main(sys.argv[1])
