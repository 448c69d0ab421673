"""Outputs, gradients and steps of Mega's official gated attention and feed-forward layer:
data/golden/.

    git clone https://github.com/facebookresearch/mega
    python -m benchmarks.golden_mega mega

It computes in float32 (its Fourier transforms do in any case). Its modules are imported without the
package around them; `utils` is those of the official functions that they call.
"""

import ast
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.golden import DIRECTORY, commit_of, keep
from benchmarks.golden_mega_ema import import_ema
from benchmarks.official import import_file

TARGET = DIRECTORY / "mega.safetensors"
MODULES = "fairseq/modules"
D_MODEL, Z_DIM, VALUE_DIM, STATES, FFN_DIM, MAX_POSITIONS = 6, 4, 8, 3, 7, 16
BATCH, LENGTH, CHUNK, SEED = 2, 12, 4, 0

# what each case changes of: causal, softmax, simple bias, layernorm before, no chunks
CASES: dict[str, dict] = {
    "softmax": {},
    "softmax, chunks": {"chunk_size": CHUNK, "rel_pos_bias": "rotary", "norm_type": "rmsnorm"},
    "laplace, chunks": {"chunk_size": CHUNK, "attention_activation": "laplace"},
    "laplace, both ways": {
        "attention_activation": "laplace",
        "bidirectional": True,
        "rel_pos_bias": "rotary",
        "norm_type": "scalenorm",
        "prenorm": False,
    },
    "softmax, chunks, both ways": {"bidirectional": True, "chunk_size": CHUNK},
    "relu2": {
        "attention_activation": "relu2",
        "rel_pos_bias": "rotary",
        "norm_type": "batchnorm",
        "prenorm": False,
    },
}


def _functions(path: Path, *names: str) -> SimpleNamespace:
    """Functions of a file whose imports are not wanted."""
    tree = ast.parse(path.read_text())
    tree.body = [part for part in tree.body if getattr(part, "name", None) in names]
    found = {"torch": torch, "F": F, "math": math, "Callable": Callable}
    exec(compile(tree, str(path), "exec"), found)
    return SimpleNamespace(**{name: found[name] for name in names})


def import_mega(checkout: Path) -> tuple[ModuleType, ModuleType]:
    """The official modules of the gated attention and of the feed-forward layer."""
    modules = checkout / MODULES
    utils = _functions(
        checkout / "fairseq/utils.py", "relu2", "laplace", "softmax", "get_activation_fn"
    )
    stubs = {"fairseq": SimpleNamespace(utils=utils), "fairseq.modules": MagicMock()}

    def with_incremental_state(cls):
        cls.get_incremental_state = lambda self, state, key: state.get(key)
        cls.set_incremental_state = lambda self, state, key, value: state.update({key: value})
        return cls

    class NoDropout(nn.Identity):
        def forward(self, x, **_):
            return x

    stubs["fairseq.incremental_decoding_utils"] = SimpleNamespace(
        with_incremental_state=with_incremental_state
    )
    stubs["fairseq.modules.fairseq_dropout"] = SimpleNamespace(
        FairseqDropout=NoDropout, FairseqFeatureDropout=NoDropout
    )
    stubs["fairseq.modules.exponential_moving_average"] = import_ema(checkout)
    # in this order: the last needs those before it
    for name in (
        *("layer_norm", "scale_norm", "root_mean_square_norm", "sequence_norm"),
        "relative_positional_bias",
    ):
        stubs[f"fairseq.modules.{name}"] = import_file(modules / f"{name}.py", stubs)
    return (
        import_file(modules / "moving_average_gated_attention.py", stubs),
        import_file(modules / "normalized_feedforward_network.py", stubs),
    )


class Block(nn.Module):
    """Gated attention and feed-forward layer, under the names of the official decoder layer."""

    def __init__(self, modules: tuple[ModuleType, ModuleType], changes: dict):
        super().__init__()
        attention, feed_forward = modules
        common = {k: changes[k] for k in ("norm_type", "prenorm") if k in changes}
        self.mega_layer = attention.MovingAverageGatedAttention(
            D_MODEL, Z_DIM, VALUE_DIM, STATES, max_positions=MAX_POSITIONS, **changes
        )
        self.nffn = feed_forward.NormalizedFeedForwardNetwork(D_MODEL, FFN_DIM, **common)
        for parameter in self.parameters():  # weights of 0.02 would hide what they multiply
            if parameter.std(correction=0) < 0.1:
                nn.init.normal_(parameter, std=0.5)

    def forward(self, x, mask):
        attended, _ = self.mega_layer(x, attn_mask=mask)
        return attended, self.nffn(attended)


def causal_mask(changes: dict) -> torch.Tensor | None:
    """What the official decoder passes: -inf above the diagonal, or 0 and 1."""
    size = changes.get("chunk_size", LENGTH)
    if changes.get("bidirectional"):
        return None
    if changes.get("attention_activation", "softmax") == "softmax":
        return torch.full((size, size), -torch.inf).triu(1)
    return torch.ones(size, size).tril()


def golden(modules: tuple[ModuleType, ModuleType]) -> dict[str, torch.Tensor]:
    """Weights, input, outputs, gradients and steps of every case, (batch, length, .)."""
    kept = {}
    for name, changes in CASES.items():
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            block = Block(modules, changes)
            x = torch.randn(LENGTH, BATCH, D_MODEL, requires_grad=True)  # theirs: time first
        weights = {k: v.detach().clone() for k, v in block.state_dict().items()}
        kept |= {f"{name}/weights.{k}": v for k, v in weights.items() if "_float" not in k}
        attended, y = block(x, causal_mask(changes))
        parameters = dict(block.named_parameters())
        grads = torch.autograd.grad(y.sin().sum(), [x, *parameters.values()])
        arrays = {"x": x, "attended": attended, "y": y, "gradient.x": grads[0]}
        kept |= {f"{name}/{key}": value.transpose(0, 1) for key, value in arrays.items()}
        for key, grad in zip(parameters, grads[1:], strict=True):
            kept[f"{name}/gradient.{key}"] = grad
        if changes.get("norm_type") == "batchnorm":
            block.load_state_dict(weights)
            with torch.no_grad():
                kept[f"{name}/eval"] = block.eval()(x, causal_mask(changes))[1].transpose(0, 1)
        if not changes.get("bidirectional"):
            kept |= {f"{name}/{key}": value for key, value in _steps(block.eval(), x).items()}
    return {name: value.detach().clone().contiguous() for name, value in kept.items()}


@torch.no_grad()
def _steps(block: Block, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gated attention token by token, and what it remembers after 10 tokens."""
    state, outputs, kept = {"ema_state": {}, "attn_state": {}}, [], {}
    for t, x_t in enumerate(x.unbind(0)):
        if t == 10:
            kept["ema"] = state["ema_state"]["prev_state"].clone()
            kept["keys"] = state["attn_state"]["prev_key"].clone()
        outputs.append(block.mega_layer(x_t[None], incremental_state=state)[0])
    return kept | {"steps": torch.cat(outputs).transpose(0, 1)}


def main(checkout: str) -> None:
    arrays = golden(import_mega(Path(checkout)))
    provenance = {
        "source": "https://github.com/facebookresearch/mega, MovingAverageGatedAttention and "
        f"NormalizedFeedForwardNetwork of {MODULES}",
        "commit": commit_of(Path(checkout)),
        "licence": "MIT (the code); the numbers are random weights and what it computes with them",
        "command": "python -m benchmarks.golden_mega <checkout>",
        "seed": SEED,
        "cases": CASES,
    }
    keep(TARGET, arrays, provenance)


if __name__ == "__main__":
    main(sys.argv[1])
