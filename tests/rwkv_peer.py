"""The `rwkv` package (versions 4 to 7 by their author) on small random weights.

The package reads environment variables when it is imported and, for version 7, replaces its class
for the whole process; therefore it runs in a process of its own, which this file is the program of.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor


def rwkv_logits(weights: dict[str, Tensor], tokens: list[int], version: int):
    """Logits (len(tokens), vocabulary) of the package, read token by token and as one prompt.

    `weights` has the names and shapes of an official .pth file; `version` is 4, 5, 6 or 7. Skips
    the test where the package is not installed. Versions 5 and 6 need two layers: from a single one
    the package does not find out the number of heads.
    """
    if importlib.util.find_spec("rwkv") is None:
        pytest.skip("rwkv is not installed (make test installs it from benchmarks/)")
    # scripting the package's code takes longer than running it; version 7 insists on it
    switches = {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0", "RWKV_V7_ON": str(int(version == 7))}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.pth"
        torch.save({name: x.detach().float().clone() for name, x in weights.items()}, model)
        ran = subprocess.run(
            [sys.executable, "-P", __file__, folder, *map(str, tokens)],
            env=os.environ | switches,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
        logits = torch.load(Path(folder) / "logits.pt", weights_only=True)
    return logits["steps"], logits["prompt"]


def main(folder: str, *tokens: str) -> None:
    from rwkv.model import RWKV

    model = RWKV(model=str(Path(folder) / "model"), strategy="cpu fp32")
    tokens, state, steps = [int(token) for token in tokens], None, []
    for token in tokens:
        logits, state = model.forward([token], state)
        steps.append(logits)
    # a prompt of one token is a step to the package
    prompt = model.forward(tokens, None, full_output=True)[0].view(len(tokens), -1)
    torch.save({"steps": torch.stack(steps), "prompt": prompt}, Path(folder) / "logits.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
