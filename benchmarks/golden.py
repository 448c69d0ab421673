"""Numbers that other people's code computed, kept in data/golden with where they came from."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ntlib.measuring import environment
from ntlib.results import write_atomically

DIRECTORY = Path(__file__).resolve().parents[1] / "data" / "golden"


def commit_of(checkout: Path) -> str:
    """The commit that lies in a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def keep(target: Path, arrays: Mapping[str, Tensor], provenance: Mapping[str, object]) -> None:
    """Write the arrays to `target` (.safetensors) and, beside it (.json), `provenance` with this
    machine's environment; an interrupted run leaves what was there."""
    work = target.with_suffix(".partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: x.detach().contiguous() for name, x in arrays.items()}, work)
    work.replace(target)
    described = dict(provenance) | {"environment": environment()}
    text = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    write_atomically(target.with_suffix(".json"), text)
    print(target)
