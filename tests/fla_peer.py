"""The naive functions of flash-linear-attention: operators in plain torch, written by others."""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.official import import_file


def import_naive(path: str) -> ModuleType:
    """The module fla/ops/<path>.py by itself: the package around it cannot be imported without
    Triton. Skips the test where fla-core is not installed."""
    try:
        (file,) = [f for f in files("fla-core") if str(f) == f"fla/ops/{path}.py"]
    except PackageNotFoundError:
        pytest.skip("fla-core is not installed (make test installs it from benchmarks/)")
    return import_file(Path(file.locate()))
