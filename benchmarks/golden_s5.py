"""Outputs of the official S5 layer: data/golden/.

    git clone https://github.com/lindermanlab/S5
    python -m pip install jax flax
    python -m benchmarks.golden_s5 S5

The system and the layer around it run in float64. The file names a type that JAX has renamed
since; the new one stands in. GELU there is the approximation by tanh, so the layers' outputs tell
structure and not the last digits, which the systems' do.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.golden import DIRECTORY, commit_of, keep

TARGET = DIRECTORY / "s5.safetensors"
D_MODEL, D_STATE, BLOCKS, LENGTH, SEED = 6, 8, 2, 20, 0
# name -> arguments of their S5SSM and of the layer around it
CASES = {
    "zoh": {"discretization": "zoh", "activation": "half_glu1"},
    "bilinear": {"discretization": "bilinear", "activation": "full_glu"},
    "lecun, clipped": {"C_init": "lecun_normal", "clip_eigs": True, "activation": "half_glu1"},
    "two-sided": {"bidirectional": True, "activation": "half_glu1"},
    "two-sided, complex": {
        "bidirectional": True,
        "C_init": "complex_normal",
        "activation": "full_glu",
    },
    "half the rate": {"step_rescale": 2.0, "activation": "half_glu1"},
}


def import_official(checkout: Path):
    """s5.ssm, s5.ssm_init and s5.layers of a checkout, in double precision."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.numpy.DeviceArray = jax.Array
    sys.path.insert(0, str(checkout))
    return [importlib.import_module(f"s5.{name}") for name in ("ssm", "ssm_init", "layers")]


def official_init(ssm_init):
    """Lambda, V and V^-1 as s5/train.py makes them for conj_sym=True."""
    from jax.scipy.linalg import block_diag

    size = D_STATE // BLOCKS
    Lambda, _, _, V, _ = ssm_init.make_DPLR_HiPPO(size)
    Lambda, V = Lambda[: size // 2], V[:, : size // 2]
    repeated = np.tile(np.asarray(Lambda), BLOCKS)
    inverse = block_diag(*([V.conj().T] * BLOCKS))
    return repeated, block_diag(*([V] * BLOCKS)), inverse


def case(modules, name: str, arguments: dict) -> dict[str, torch.Tensor]:
    """Weights of a layer, its input, the system's output and the layer's."""
    import jax

    ssm, ssm_init, layers = modules
    arguments = dict(arguments)
    activation, rescale = arguments.pop("activation"), arguments.pop("step_rescale", 1.0)
    Lambda, V, inverse = official_init(ssm_init)
    given = {
        "C_init": "trunc_standard_normal",
        "discretization": "zoh",
        "clip_eigs": False,
        "bidirectional": False,
    } | arguments
    make = ssm.init_S5SSM(
        H=D_MODEL,
        P=D_STATE // 2,
        Lambda_re_init=Lambda.real,
        Lambda_im_init=Lambda.imag,
        V=V,
        Vinv=inverse,
        dt_min=0.001,
        dt_max=0.1,
        conj_sym=True,
        **given,
    )
    layer = layers.SequenceLayer(
        ssm=make,
        dropout=0.0,
        d_model=D_MODEL,
        activation=activation,
        training=False,
        prenorm=True,
        step_rescale=rescale,
    )
    x = jax.random.normal(jax.random.PRNGKey(SEED + 1), (LENGTH, D_MODEL), dtype="float64")
    weights = layer.init(jax.random.PRNGKey(SEED), x)["params"]
    if given["clip_eigs"]:  # let it have something to clip
        weights["seq"]["Lambda_re"] = np.array([0.3, *Lambda.real[1:]])
    system = make(step_rescale=rescale).apply({"params": weights["seq"]}, x)
    flat = jax.tree_util.tree_flatten_with_path(weights)[0]
    kept = {"/".join(part.key for part in path): value for path, value in flat}
    kept = {f"weights.{key}": value for key, value in kept.items()}
    kept |= {"x": x, "system": system, "layer": layer.apply({"params": weights}, x)}
    return {f"{name}/{key}": torch.tensor(np.asarray(value)) for key, value in kept.items()}


def main(checkout: str) -> None:
    import flax
    import jax

    modules = import_official(Path(checkout))
    arrays = {}
    for name, arguments in CASES.items():
        arrays |= case(modules, name, arguments)
    provenance = {
        "source": "https://github.com/lindermanlab/S5, s5/ssm.py (S5SSM), s5/layers.py",
        "commit": commit_of(Path(checkout)),
        "licence": "MIT (the code); the numbers are random weights and what it computes",
        "command": "python -m benchmarks.golden_s5 <checkout>",
        "jax": jax.__version__,
        "flax": flax.__version__,
        "seed": SEED,
        "sizes": {
            "d_model": D_MODEL,
            "d_state": D_STATE,
            "blocks": BLOCKS,
            "length": LENGTH,
        },
        "cases": CASES,
    }
    keep(TARGET, arrays, provenance)


if __name__ == "__main__":
    main(sys.argv[1])
