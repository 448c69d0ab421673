"""Kernels and outputs of DSS in the official repository of S4: data/golden/.

    git clone https://github.com/state-spaces/s4
    python -m benchmarks.golden_dss s4

Its file rounds these kernels to float32. The systems are set by hand, since they start like S4D's.
"""

import sys
from pathlib import Path

import torch

from benchmarks.golden import DIRECTORY, commit_of, keep
from benchmarks.golden_s4 import import_standalone

TARGET = DIRECTORY / "dss.safetensors"
D_MODEL, D_STATE, BATCH, LENGTH, LONGER, SEED = 4, 8, 2, 24, 40, 0
# name -> real parts of the poles
CASES = {"decaying": [-0.5, -0.5, -1.0, -2.0], "some grow": [-0.5, 0.3, -1.0, 2.0]}


@torch.no_grad()
def case(module, name: str, real: list[float]) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        block = module.S4Block(
            D_MODEL,
            transposed=False,
            d_state=D_STATE,
            l_max=LONGER,
            verbose=False,
            mode="diag",
            init="diag-lin",
            disc="dss",
            real_transform="none",
            n_ssm=1,
        ).double()
        x = torch.randn(BATCH, LONGER, D_MODEL, dtype=torch.float64)
    kernel = block.layer.kernel
    kernel.A_real.copy_(-torch.tensor([real], dtype=torch.float64))  # theirs is negated
    kept = {f"weights.{key}": value.clone() for key, value in block.state_dict().items()}
    kept |= {"x": x, "y": block(x)[0]}
    kept |= {"kernel": kernel(L=LENGTH)[0], "longer kernel": kernel(L=LONGER)[0]}
    return {f"{name}/{key}": value for key, value in kept.items()}


def main(checkout: str) -> None:
    module = import_standalone(Path(checkout), "s4.py")
    arrays = {}
    for name, real in CASES.items():
        arrays |= case(module, name, real)
    provenance = {
        "source": "https://github.com/state-spaces/s4, models/s4/s4.py (S4Block, disc='dss')",
        "commit": commit_of(Path(checkout)),
        "licence": "Apache-2.0 (the code); the numbers are random weights and what it computes",
        "command": "python -m benchmarks.golden_dss <checkout>",
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
