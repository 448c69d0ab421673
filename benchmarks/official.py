"""Single files of other people's code, imported without the packages around them."""

import importlib.util
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from unittest.mock import patch


def import_file(path: Path, stubs: Mapping[str, object] | None = None) -> ModuleType:
    """The module in a file. While it is imported, `stubs` stand for the modules of these names;
    afterwards sys.modules is what it was before."""
    spec = importlib.util.spec_from_file_location(f"official_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    # without stubs nothing is to be undone: what the file imports may stay
    with patch.dict(sys.modules, stubs) if stubs else nullcontext():
        spec.loader.exec_module(module)
    return module
