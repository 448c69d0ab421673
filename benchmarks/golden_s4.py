"""Kernels, outputs and steps of the official S4 and S4D: data/golden/.

    git clone https://github.com/state-spaces/s4
    python -m benchmarks.golden_s4 s4

The standalone module runs in float64 with its plain-torch sums; what it imports beside torch is
replaced. It computes roots of unity as powers in steps, which costs it digits; sizes are small.
"""

import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import torch

from benchmarks.golden import DIRECTORY, commit_of, keep
from benchmarks.official import import_file

TARGET = DIRECTORY / "s4-standalone.safetensors"
D_MODEL, D_STATE, BATCH, LENGTH, LONGER, SEED = 4, 8, 2, 24, 40, 0
# name -> arguments of their S4Block
CASES = {
    "dplr legs": {"mode": "dplr", "init": "legs"},
    "dplr legs, shared": {"mode": "dplr", "init": "legs", "n_ssm": 2},
    "dplr legs, two-sided": {"mode": "dplr", "init": "legs", "bidirectional": True},
    "diag-lin": {"mode": "diag", "init": "diag-lin"},
    "diag-inv": {"mode": "diag", "init": "diag-inv"},
    "diag-legs": {"mode": "diag", "init": "diag-legs"},
    "diag-real": {"mode": "diag", "init": "diag-real"},
    "diag-lin, bilinear": {"mode": "diag", "init": "diag-lin", "disc": "bilinear"},
    "diag-lin, two-sided": {"mode": "diag", "init": "diag-lin", "bidirectional": True},
}


def import_standalone(checkout: Path, file: str) -> ModuleType:
    """models/s4/<file> of a checkout."""
    lightning = MagicMock()
    lightning.rank_zero_only = lambda function: function
    nn = MagicMock(DropoutNd=torch.nn.Dropout)
    stubs = {name: MagicMock() for name in ("pytorch_lightning", "src", "src.models")}
    stubs |= {"pytorch_lightning.utilities": lightning, "src.models.nn": nn}
    return import_file(checkout / "models" / "s4" / file, stubs)


@torch.no_grad()
def standalone(module: ModuleType, name: str, arguments: dict) -> dict[str, torch.Tensor]:
    """Weights (after their first forward pass has set C-tilde), kernel, output, steps of a case."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        block = module.S4Block(
            D_MODEL, transposed=False, d_state=D_STATE, l_max=LENGTH, verbose=False, **arguments
        ).double()
        x = torch.randn(BATCH, LONGER, D_MODEL, dtype=torch.float64)
    whole = block(x[:, :LENGTH])[0]
    kept = {f"weights.{key}": value.clone() for key, value in block.state_dict().items()}
    kept |= {"x": x, "y": whole, "kernel": block.layer.kernel(L=LENGTH)[0]}
    if not arguments.get("bidirectional"):
        block.setup_step()
        state, steps = block.default_state(BATCH), []
        for x_t in x[:, :LENGTH].unbind(1):
            y_t, state = block.step(x_t, state)
            steps.append(y_t)
        kept["steps"] = torch.stack(steps, dim=1)
    block.layer.L = block.layer.l_max = None  # now their DPLR kernel doubles its length
    kept["longer kernel"] = block.layer.kernel(L=LONGER)[0]
    return {f"{name}/{key}": value for key, value in kept.items()}


@torch.no_grad()
def minimal(module: ModuleType) -> dict[str, torch.Tensor]:
    """Weights and output of the minimal S4D module (float64 but for its C, which is cast too)."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        layer = module.S4D(D_MODEL, d_state=D_STATE, transposed=False).double()
        x = torch.randn(BATCH, LENGTH, D_MODEL, dtype=torch.float64)
    kept = {f"weights.{key}": value for key, value in layer.state_dict().items()}
    kept |= {"x": x, "y": layer(x)[0], "kernel": layer.kernel(LENGTH)}
    return {f"minimal/{key}": value for key, value in kept.items()}


def main(checkout: str) -> None:
    arrays = minimal(import_standalone(Path(checkout), "s4d.py"))
    module = import_standalone(Path(checkout), "s4.py")
    for name, arguments in CASES.items():
        arrays |= standalone(module, name, arguments)
    provenance = {
        "source": "https://github.com/state-spaces/s4, models/s4/s4.py (S4Block) and s4d.py (S4D)",
        "commit": commit_of(Path(checkout)),
        "licence": "Apache-2.0 (the code); the numbers are random weights and what it computes",
        "command": "python -m benchmarks.golden_s4 <checkout>",
        "seed": SEED,
        "sizes": {
            "d_model": D_MODEL,
            "d_state": D_STATE,
            "batch": BATCH,
            "length": LENGTH,
            "longer": LONGER,
        },
        "cases": CASES,
    }
    keep(TARGET, arrays, provenance)


if __name__ == "__main__":
    main(sys.argv[1])
