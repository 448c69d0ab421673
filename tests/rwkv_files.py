"""Random weights with the names and shapes of the official .pth files, version 4 to 7.

Written down from the author's files and code, not derived from ours: a name or a shape that we get
wrong shows. Every parameter is random, so that none hides behind a zero or a one.
"""

import torch
from torch import Tensor

SIZES = {"vocab": 50, "d": 128, "layers": 3, "ffn": 192}
N = 64  # width of a head, as in all released models
V7_RANKS = {"w": 24, "a": 16, "v": 8, "g": 40}  # all different, so that a mix-up shows
MIX_RANK, DECAY_RANK = 16, 24


def shapes(version: int, *, vocab: int, d: int, layers: int, ffn: int) -> dict[str, tuple]:
    """{name: shape} of a whole file."""
    found = {"emb.weight": (vocab, d), **_norm("blocks.0.ln0", d)}
    for i in range(layers):
        time_mix = {4: _att4, 5: _att5, 6: _att6, 7: _att7}[version](d)
        block = {**_norm("ln1", d), **_norm("ln2", d)}
        block |= {f"att.{name}": shape for name, shape in time_mix.items()}
        block |= {f"ffn.{name}": shape for name, shape in _ffn(version, d, ffn).items()}
        found |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return found | {**_norm("ln_out", d), "head.weight": (vocab, d)}


def random_weights(version: int, seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """A whole file; `sizes` replace some of SIZES."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: _draw(name, shape, generator)
        for name, shape in shapes(version, **(SIZES | sizes)).items()
    }


def _draw(name: str, shape: tuple, generator: torch.Generator) -> Tensor:
    """Values of the size that trained models have."""
    part = name.rpartition("att.")[2].rpartition("ffn.")[2]
    x = torch.randn(shape, generator=generator)
    if part.startswith(("time_mix", "time_maa", "x_")) and not part.endswith(("w1", "w2")):
        return torch.rand(shape, generator=generator)
    if part == "time_decay":
        return x - 2
    if part in ("ln_x.weight", "k_k", "k_a") or (".ln" in name and name.endswith("weight")):
        return 1 + 0.2 * x
    if part in ("time_first", "time_faaaa", "w0", "a0", "v0", "r_k") or name.endswith("bias"):
        return 0.5 * x
    if name == "emb.weight":
        return x
    return x * shape[-1] ** -0.5 if name.endswith("weight") else x * shape[0] ** -0.5


def _norm(name, d):
    return {f"{name}.weight": (d,), f"{name}.bias": (d,)}


def _linears(names, d):
    return {f"{name}.weight": (d, d) for name in names.split()}


def _att4(d):
    mixes = {f"time_mix_{x}": (1, 1, d) for x in "kvr"}
    rates = {"time_decay": (d,), "time_first": (d,)}
    return {**rates, **mixes, **_linears("key value receptance output", d)}


def _att5(d):
    mixes = {f"time_mix_{x}": (1, 1, d) for x in "kvrg"}
    rates = {"time_decay": (d // N, N), "time_faaaa": (d // N, N)}
    linears = _linears("receptance key value output gate", d)
    return {**mixes, **rates, **linears, **_norm("ln_x", d)}


def _att6(d):
    mixes = {f"time_maa_{x}": (1, 1, d) for x in "xwkvrg"}
    low_rank = {"time_maa_w1": (d, 5 * MIX_RANK), "time_maa_w2": (5, MIX_RANK, d)}
    low_rank |= {"time_decay_w1": (d, DECAY_RANK), "time_decay_w2": (DECAY_RANK, d)}
    rates = {"time_decay": (1, 1, d), "time_faaaa": (d // N, N)}
    linears = _linears("receptance key value output gate", d)
    return {**mixes, **low_rank, **rates, **linears, **_norm("ln_x", d)}


def _att7(d):
    found = {f"x_{x}": (1, 1, d) for x in "rwkvag"}
    for letter, rank in V7_RANKS.items():
        found |= {f"{letter}1": (d, rank), f"{letter}2": (rank, d)}
    found |= dict.fromkeys(("w0", "a0", "v0", "k_k", "k_a"), (1, 1, d))
    linears = _linears("receptance key value output", d)
    return {**found, "r_k": (d // N, N), **linears, **_norm("ln_x", d)}


def _ffn(version, d, width):
    linears = {"key.weight": (width, d), "value.weight": (d, width)}
    if version == 7:
        return {"x_k": (1, 1, d), **linears}
    mix = "time_maa" if version == 6 else "time_mix"
    return {f"{mix}_k": (1, 1, d), f"{mix}_r": (1, 1, d), **linears, "receptance.weight": (d, d)}
