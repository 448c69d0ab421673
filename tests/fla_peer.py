"""The naive functions of flash-linear-attention: operators in plain torch, written by others."""

import importlib.util
from importlib.metadata import PackageNotFoundError, files
from types import ModuleType

import pytest


def import_naive(path: str) -> ModuleType:
    """The module fla/ops/<path>.py by itself: the package around it cannot be imported without
    Triton. Skips the test where fla-core is not installed."""
    try:
        (file,) = [f for f in files("fla-core") if str(f) == f"fla/ops/{path}.py"]
    except PackageNotFoundError:
        pytest.skip("fla-core is not installed (make test installs it from benchmarks/)")
    spec = importlib.util.spec_from_file_location(f"fla_{path.replace('/', '_')}", file.locate())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
