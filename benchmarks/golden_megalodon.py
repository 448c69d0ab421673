"""Outputs, gradients and states of Megalodon's official code on a CPU: data/golden/.

    git clone https://github.com/XuezheMax/megalodon
    python -m benchmarks.golden_megalodon megalodon

Needs a C++ compiler, about two minutes once. The official modules run as they are; of their
compiled extension, which wants CUDA, the parts that they call here are built from its sources for
CPUs (csrc/ops). What belongs to many devices is replaced: parallel linear maps by plain ones,
apex's norm by its definition.
"""

import importlib
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock, patch

import torch
from torch import nn
from torch.utils.cpp_extension import load

from benchmarks.golden import DIRECTORY, commit_of, keep

TARGET = DIRECTORY / "megalodon.safetensors"
D_MODEL, Z_DIM, VALUE_DIM, HEADS, STATES, GROUPS, FFN_DIM = 8, 4, 8, 2, 3, 2, 5
BATCH, LENGTH, CHUNK, SEED = 2, 12, 4, 0
OPERATORS = {"EMAHidden": "ema_hidden", "EMAParameters": "ema_parameters"}
OPERATORS |= {"TimestepNorm": "timestep_norm"}


def build_operators(checkout: Path) -> ModuleType:
    """The official operators for CPUs. Their CUDA twins stay undefined and are never called."""
    sources = checkout / "megalodon" / "csrc"
    includes = "\n".join(f'#include "ops/{file}.h"' for file in OPERATORS.values())
    bindings = "\n".join(f"megalodon::ops::Define{name}Op(m);" for name in OPERATORS)
    flags = sys.getdlopenflags()
    with tempfile.TemporaryDirectory() as directory:
        binding = Path(directory) / "binding.cc"
        binding.write_text(
            f"#include <torch/extension.h>\n{includes}\n"
            f"PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {{\n{bindings}\n}}\n"
        )
        try:
            sys.setdlopenflags(os.RTLD_LAZY)
            return load(
                "megalodon_cpu_operators",
                [str(binding), *(str(sources / f"ops/{f}.cc") for f in OPERATORS.values())],
                extra_include_paths=[str(sources)],
                extra_cflags=["-O1", "-include", "torch/extension.h"],
                extra_ldflags=["-Wl,-z,lazy", "-Wl,--unresolved-symbols=ignore-all"],
                build_directory=directory,
            )
        finally:
            sys.setdlopenflags(flags)


class PlainLinear(nn.Linear):
    """What a parallel linear map is on one device."""

    def __init__(self, d_in, d_out, bias=True, init_method=None, **_):
        super().__init__(d_in, d_out, bias=bias)


def rms_norm(x, shape, weight, eps):
    """apex's manual_rms_norm."""
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x if weight is None else x * weight


def stubs(checkout: Path, operators: ModuleType) -> dict[str, object]:
    """What stands for the modules that the official ones import."""
    root = checkout / "megalodon"
    unused = ("rfft", "fftconv_fwd", "fftconv_bwd")
    ops = SimpleNamespace(
        **{name: getattr(operators, name) for name in dir(operators) if name[0] != "_"},
        **dict.fromkeys(unused),
    )
    single = SimpleNamespace(
        get_model_parallel_world_size=lambda: 1,
        get_model_parallel_rank=lambda: 0,
        get_chunk_parallel_rank=lambda: 0,
        divide_and_check_no_remainder=lambda whole, parts: whole // parts,
    )
    replaced = {
        "megalodon_extension": SimpleNamespace(ops=ops),
        "megalodon_extension.ops": ops,
        "megalodon.distributed": single,
        "megalodon.distributed.utils": single,
        "megalodon.utils": SimpleNamespace(get_init_fn=lambda mode: None),
        "megalodon.modules.fused_ops.attention": MagicMock(__path__=[]),
        "megalodon.modules.fused_ops.attention.swift": MagicMock(),
        "megalodon.modules.fused_ops.attention.softmax": MagicMock(),
        "megalodon.modules.model_parallel": SimpleNamespace(
            ColumnParallelLinear=PlainLinear,
            RowParallelLinear=PlainLinear,
            gather_from_model_parallel_region=lambda x, dim=-1: x,
        ),
        "megalodon.modules.chunk_parallel": SimpleNamespace(
            should_send_to_next=lambda: False,
            should_recv_from_prev=lambda: False,
            send_to_next_chunk_parallel_region=None,
            recv_from_prev_chunk_parallel_region=None,
        ),
        "apex": MagicMock(),
        "apex.normalization": MagicMock(),
        "apex.normalization.fused_layer_norm": MagicMock(manual_rms_norm=rms_norm),
        "fused_layer_norm_cuda": MagicMock(),
    }
    for name, folder in (("megalodon", root), ("megalodon.modules", root / "modules")):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        replaced[name] = package
    return replaced


def draw(module: nn.Module) -> nn.Module:
    """Weights of the size of 1, so that none hides what it multiplies."""
    for name, parameter in module.named_parameters():
        if not name.endswith("cema.theta"):
            nn.init.normal_(parameter, std=0.5)
    return module


def kept(name: str, module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict:
    """Weights, input, output and gradients of a case."""
    weights = dict(module.named_parameters())
    grads = torch.autograd.grad(y.sin().sum(), [x, *weights.values()])
    arrays = {f"{name}/x": x, f"{name}/y": y, f"{name}/gradient.x": grads[0]}
    for (key, weight), grad in zip(weights.items(), grads[1:], strict=True):
        arrays |= {f"{name}/weights.{key}": weight, f"{name}/gradient.{key}": grad}
    return arrays


def golden() -> dict[str, torch.Tensor]:
    """Timestep norm, moving average and whole blocks, with and without SwiGLU."""
    modules = "megalodon.modules"
    norm = importlib.import_module(f"{modules}.timestep_norm").TimestepNorm(D_MODEL, GROUPS)
    averages = importlib.import_module(f"{modules}.complex_exponential_moving_average")
    averages.dist = MagicMock()  # there is nobody to share the order of the channels with
    attention = importlib.import_module(f"{modules}.moving_average_gated_attention")
    feed_forward = importlib.import_module(f"{modules}.normalized_feedforward_network")

    def inputs():
        return torch.randn(BATCH, LENGTH, D_MODEL, requires_grad=True)

    x, arrays = inputs() + 1, {}
    y, _, mean, variance = draw(norm)(x)
    arrays |= kept("norm", norm, x, y) | {"norm/mean": mean, "norm/variance": variance}
    average, x = draw(averages.MultiHeadComplexEMA(D_MODEL, STATES)), inputs()
    y, state = average(x.transpose(1, 2), None, compute_last_state=True)
    arrays |= kept("cema", average, x, y.transpose(1, 2)) | {"cema/state": state}
    frequencies = Z_DIM // HEADS // 2
    angles = torch.arange(CHUNK)[:, None] * 10000 ** -(torch.arange(frequencies) / frequencies)
    turns, mask = (
        torch.polar(torch.ones_like(angles), angles),
        torch.full((CHUNK, CHUNK), -torch.inf),
    )
    for name, swiglu in (("block", False), ("block, swiglu", True)):
        mega = attention.MovingAverageGatedAttention(
            *(D_MODEL, Z_DIM, VALUE_DIM, STATES, HEADS), chunk_size=CHUNK, norm_num_groups=GROUPS
        )
        nffn = feed_forward.NormalizedFeedForwardNetwork(D_MODEL, FFN_DIM, swiglu=swiglu)
        block, x = draw(nn.ModuleDict({"mega": mega, "nffn": nffn})), inputs()
        attended, _ = mega(x, turns, mask.triu(1)[None, None])
        arrays |= kept(name, block, x, nffn(attended, x)) | {f"{name}/attended": attended}
    return {name: value.detach().clone().contiguous() for name, value in arrays.items()}


def main(checkout: str) -> None:
    root = Path(checkout).resolve()
    replaced = stubs(root, build_operators(root))
    with (
        patch.dict(sys.modules, replaced),
        patch.object(torch.Tensor, "cuda", lambda self: self),
        torch.random.fork_rng(),
    ):
        torch.manual_seed(SEED)
        arrays = golden()
    sizes = {"d_model": D_MODEL, "z_dim": Z_DIM, "value_dim": VALUE_DIM, "heads": HEADS}
    sizes |= {"states": STATES, "groups": GROUPS, "ffn": FFN_DIM, "chunk": CHUNK, "length": LENGTH}
    provenance = {
        "source": "https://github.com/XuezheMax/megalodon, megalodon/modules on a CPU, with the "
        f"operators of megalodon/csrc/ops: {', '.join(OPERATORS.values())}",
        "commit": commit_of(root),
        "licence": "MIT (the code); the numbers are random weights and what it computes with them",
        "command": "python -m benchmarks.golden_megalodon <checkout>",
        "seed": SEED,
        "sizes": sizes,
    }
    keep(TARGET, arrays, provenance)


if __name__ == "__main__":
    main(sys.argv[1])
