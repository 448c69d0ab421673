"""Named tensors of somebody else into a model of ours: sizes from shapes, all differences told."""

import re
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def check_numbers(weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError that names the tensors that are not floating-point numbers."""
    if others := sorted(n for n, x in weights.items() if not x.is_floating_point()):
        raise ValueError(
            f"weights must be floating-point numbers (quantised files are not read); these are "
            f"not: {some(others)}"
        )


def count_blocks(weights: Mapping[str, Tensor], prefix: str) -> int:
    """One more than the largest number behind `prefix` in a name."""
    blocks = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in weights)
    # a number beyond all others would be an error of one name, not of a million layers
    return min(max((int(match[1]) for match in blocks if match), default=0) + 1, len(weights))


def size(weights: Mapping[str, Tensor], name: str, dim: int) -> int:
    """Size `dim` of a parameter, as most of the blocks that have it say.

    Raises ValueError if none has.
    """
    found = [x for key, x in weights.items() if key == name or key.endswith(f".{name}")]
    sizes = Counter(x.shape[dim] for x in found if x.dim() > dim)
    if not sizes:
        raise ValueError(f"{name} is missing: its shape tells a size of the model")
    return sizes.most_common(1)[0][0]


def fill(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    kind: str,
    dtype: torch.dtype | None = None,
    published: Callable[[str], str] = lambda name: name,
) -> None:
    """Put the tensors in place without a copy; without `dtype` in the widest type that occurs.

    `published` translates our name of a parameter to that in `weights`; a parameter that the model
    has under two names has the first. Raises one ValueError that lists all names that are missing
    or unexpected and all shapes that are wrong; `kind` says in it what the model is.
    """
    names = {name: published(name) for name, _ in model.named_parameters()}
    shapes = {names[name]: tuple(x.shape) for name, x in model.named_parameters()}
    _check(shapes, weights, kind)
    if dtype is None:
        dtypes = {x.dtype for x in weights.values()}
        while len(dtypes) > 1:
            dtypes.add(torch.promote_types(dtypes.pop(), dtypes.pop()))
        (dtype,) = dtypes
    tensors = {ours: weights[theirs].to(dtype) for ours, theirs in names.items()}
    model.load_state_dict(tensors, assign=True, strict=False)  # strictness is _check's
    model.requires_grad_().eval()


def _check(expected: Mapping[str, tuple], weights: Mapping[str, Tensor], kind: str) -> None:
    missing, unexpected = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    wrong = [
        f"{name} is {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if missing or unexpected or wrong:
        parts = {"missing": sorted(missing), "unexpected": sorted(unexpected), "wrong shape": wrong}
        raise ValueError(
            f"weights do not fit {kind}: "
            + "; ".join(f"{what}: {some(names)}" for what, names in parts.items() if names)
        )


def some(names: list[str], most: int = 12) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
