"""Named tensors from files of somebody else: PyTorch's or safetensors', never code.

Tensors are mapped from the file, not read: what is not used costs no memory, and a model that is
larger than memory still opens.
"""

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """{name: tensor} of a file of torch.save, or of a safetensors file; the kind is told from the
    contents. Of weights in several files, `path` is the index (.json) that lists them.

    Raises ValueError that says so if a file is absent, cut short, of another kind, holds anything
    but named tensors, or would have to run code to be loaded (it is not run).
    """
    if not path.is_file():
        raise ValueError(f"there is no weight file {path}")
    if path.suffix == ".json":
        return _read_parts(path)
    with path.open("rb") as file:
        start = file.read(9)
    try:
        if start[8:] == b"{":  # behind the length of the header
            found = safetensors.torch.load_file(path)
        else:
            # only the zip format, torch.save's since 1.6, can be mapped
            zipped = start.startswith(b"PK")
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # whatever a reader of arbitrary bytes stumbles over
        raise ValueError(f"{path} {_reason(error)}") from None
    return _only_tensors(path, found)


def _read_parts(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index, as transformers writes it, lists."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{index} is no index of weight files: it has no weight_map")
    found = {}
    for name in sorted({str(name) for name in listed.values()}):
        if Path(name).name != name or name.endswith(".json"):
            raise ValueError(f"{index} must list weight files of its own folder, it lists {name!r}")
        found |= read_tensors(index.parent / name)
    if absent := sorted(listed.keys() - found.keys()):
        raise ValueError(f"{index} lists tensors that its files do not hold: {absent[:5]}")
    return found


def read_json(path: Path) -> dict:
    """Raises ValueError, naming the file, for anything but a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file, or is cut short: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object, it holds a {type(found).__name__}")
    return found


def _reason(error: Exception) -> str:
    """Torch's own message tells how to run the code in a file, which is no advice to give."""
    message = str(error)
    if isinstance(error, pickle.UnpicklingError):
        if named := re.search(r"GLOBAL (\w+(?:\.\w+)+) ", message):
            return (
                f"holds more than tensors: loading it would run code, {named[1]}. It was not run."
            )
        message = ""
    return f"is no weight file, or is cut short: {message.split('. ')[0] or type(error).__name__}"


def _only_tensors(path: Path, found: object) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} must hold named tensors, it holds a {type(found).__name__}")
    others = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(f"{path} must hold tensors only; these are none: {others[:5]}")
    return dict(found)
