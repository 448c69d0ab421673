"""Outputs, states and gradients of the official Mamba-3 mixer (SISO): data/golden/.

    git clone https://github.com/state-spaces/mamba
    python -m benchmarks.golden_mamba3 mamba

The official module runs with the references of its own tests, `mamba3_siso_step_ref` and
`mamba3_siso_fwd_ref` (plain torch), in place of its kernels for GPUs; its norms of B and C are
RMSNorms without a gate, torch's here. It rounds A and the angles to float32, and the second of the
references its steps and decays, too.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import torch

from benchmarks.golden import DIRECTORY, commit_of, keep
from benchmarks.official import import_file

TARGET = DIRECTORY / "mamba3-siso.safetensors"
D_MODEL, BATCH, LENGTH, SEED = 12, 2, 24, 0
# name -> arguments of their Mamba3
CASES = {
    "half": {"d_state": 8, "headdim": 6, "rope_fraction": 0.5},
    "groups": {"d_state": 6, "headdim": 6, "ngroups": 2, "rope_fraction": 1.0},
}
REFERENCES = "tests/ops/triton/test_mamba3_siso.py"


def import_references(checkout: Path) -> ModuleType:
    """The tests of the kernels, which hold the references."""
    parts = ("", ".ops", ".ops.triton", ".ops.triton.mamba3")
    names = [f"mamba_ssm{part}" for part in parts] + ["triton"]
    names += [f"mamba_ssm.ops.triton.mamba3.mamba3_siso_{kind}" for kind in ("combined", "step")]
    return import_file(checkout / REFERENCES, {name: MagicMock() for name in names})


def import_mixer(checkout: Path, combined: Callable) -> ModuleType:
    """mamba_ssm/modules/mamba3.py with a function in place of its kernel."""
    norm = MagicMock(RMSNorm=torch.nn.RMSNorm)
    kernel = MagicMock(mamba3_siso_combined=combined)
    parts = ("", ".ops", ".ops.triton", ".ops.triton.mamba3", ".ops.tilelang", ".ops.cute")
    stubs = {f"mamba_ssm{part}": MagicMock() for part in parts}
    triton = "mamba_ssm.ops.triton"
    stubs |= {f"{triton}.layernorm_gated": norm, f"{triton}.mamba3.mamba3_siso_combined": kernel}
    stubs |= {f"{triton}.mamba3.mamba3_mimo_rotary_step": MagicMock()}
    stubs |= {"mamba_ssm.ops.tilelang.mamba3.mamba3_mimo": MagicMock()}
    stubs |= {"mamba_ssm.ops.cute.mamba3.mamba3_step_fn": MagicMock()}
    for package in ("tilelang", "cute"):
        stubs[f"mamba_ssm.ops.{package}.mamba3"] = MagicMock()
    return import_file(checkout / "mamba_ssm" / "modules" / "mamba3.py", stubs)


def drawn(module: ModuleType, arguments: dict) -> tuple[torch.nn.Module, torch.Tensor]:
    """Their mixer with random parameters, and an input; float64."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        mixer = module.Mamba3(D_MODEL, **arguments).double()
        with torch.no_grad():
            for parameter in mixer.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
            mixer.dt_bias += 3  # large steps: the states turn and decay within the sequence
        return mixer, torch.randn(BATCH, LENGTH, D_MODEL, dtype=torch.float64)


def golden(checkout: Path, name: str) -> dict[str, torch.Tensor]:
    """Weights, input, outputs of both references; of the first the states and all gradients."""
    references, states = import_references(checkout), []

    def by_steps(*, chunk_size, Input_States, return_final_states, cu_seqlens, **given):
        y, final = references.mamba3_siso_step_ref(**given)
        states[:] = final
        return y

    def at_once(*, Input_States, return_final_states, **given):
        return references.mamba3_siso_fwd_ref(**given, dtype=torch.float64)[0]

    mixer, x = drawn(import_mixer(checkout, by_steps), CASES[name])
    x.requires_grad_()
    y = mixer(x)
    named = {"x": x} | dict(mixer.named_parameters())
    gradients = torch.autograd.grad(y.sin().sum(), list(named.values()))
    kept = {f"weights.{key}": value for key, value in mixer.state_dict().items()}
    kept |= {"x": x, "y": y}
    kept |= dict(zip(("angle", "ssm", "key", "value"), states, strict=True))
    kept |= {f"gradient of {key}": g for key, g in zip(named, gradients, strict=True)}
    kept["y at once"] = drawn(import_mixer(checkout, at_once), CASES[name])[0](x)
    return {f"{name}/{key}": value.detach() for key, value in kept.items()}


def main(checkout: str) -> None:
    arrays = {}
    for name in CASES:
        arrays |= golden(Path(checkout), name)
    provenance = {
        "source": "https://github.com/state-spaces/mamba, mamba_ssm/modules/mamba3.py (Mamba3) on "
        f"mamba3_siso_step_ref and mamba3_siso_fwd_ref of {REFERENCES}",
        "commit": commit_of(Path(checkout)),
        "licence": "Apache-2.0 (the code); the numbers are random weights and what it computes",
        "command": "python -m benchmarks.golden_mamba3 <checkout>",
        "seed": SEED,
        "sizes": {"d_model": D_MODEL, "batch": BATCH, "length": LENGTH},
        "cases": CASES,
    }
    keep(TARGET, arrays, provenance)


if __name__ == "__main__":
    main(sys.argv[1])
