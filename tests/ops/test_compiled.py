"""The kernels' exponential and their switch."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import prange
from numba.core.dispatcher import Dispatcher

from ntlib.ops import compiled, linear_attention_tiles
from ntlib.ops.compiled import exp, kernel, kernels_serve, reference


@kernel
def exponentials(x, y):
    for i in prange(x.shape[0]):
        row, out = x[i], y[i]
        for j in range(row.shape[0]):
            out[j] = exp(row[j])


def test_the_exponential_is_exact_to_a_few_roundings():
    x = np.linspace(-87.3, 88.7, 2**18, dtype=np.float32).reshape(8, -1)
    y = np.empty_like(x)
    exponentials(x, y)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(y - exact) / exact / (1 + np.abs(x))).max() < 1e-7
    wide = np.linspace(-700, 700, 64).reshape(4, 16)
    out = np.empty_like(wide)
    exponentials(wide, out)
    assert np.allclose(out, np.exp(wide), rtol=1e-15)


def test_the_exponential_at_its_ends():
    x = np.array([[-np.inf, -1e30, -88.0, 0.0, 88.7, 89.0, np.inf, np.nan]], dtype=np.float32)
    y = np.empty_like(x)
    exponentials(x, y)
    assert y[0, :3].tolist() == [0, 0, 0]
    assert y[0, 3] == 1
    assert np.isfinite(y[0, 4])
    assert y[0, 5:7].tolist() == [np.inf, np.inf]
    assert np.isnan(y[0, 7])


def test_the_switch():
    x = torch.zeros(1)
    assert kernels_serve(x, None)
    with reference():
        assert not kernels_serve(x)
    assert kernels_serve(x)
    assert not kernels_serve(torch.empty(1, device="meta"))


@pytest.mark.parametrize(("value", "expected"), [("1", "False"), ("0", "True"), ("", "True")])
def test_the_switch_in_the_environment(value, expected):
    code = (
        "import torch; from ntlib.ops.compiled import kernels_serve;"
        "print(kernels_serve(torch.zeros(1)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"NTLIB_REFERENCE": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == expected


def test_the_first_kernel_leaves_torch_its_threads():
    code = (
        "import torch; from ntlib.ops.wkv import wkv; torch.set_num_threads(1);"
        "x = torch.zeros(1, 2, 4); wkv(x, x, -x[0, 0], x[0, 0], form='compiled');"
        "print(torch.get_num_threads())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "1"


def test_cached_machine_code_knows_all_its_sources(tmp_path, monkeypatch):
    """A helper that changes in another file than its kernel: numba alone would keep the old."""
    package = Path(compiled.__file__).parents[1]
    for room in ("ops", "mixers"):
        shutil.copytree(package / room, tmp_path / room)
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "ops" / "compiled.py"))
    assert compiled._sources() == compiled.SOURCES
    with (tmp_path / "ops" / "linear_attention_tiles.py").open("a") as file:
        file.write("# changed")
    assert compiled._sources() != compiled.SOURCES
    helper = linear_attention_tiles.add_product
    assert helper._cache._cache_file._source_stamp == compiled.SOURCES


def test_machine_code_has_one_name_for_one_function():
    """Code from the disk is linked by name; one name for two functions would call the wrong one."""
    names = {}
    for path in Path(compiled.__file__).parent.glob("*.py"):
        module = importlib.import_module(f"ntlib.ops.{path.stem}")
        for function in vars(module).values():
            if isinstance(function, Dispatcher):
                source = function.py_func
                names.setdefault((source.__module__, source.__qualname__), set()).add(function)
    assert len(names) > 20
    assert not {name for name, functions in names.items() if len(functions) > 1}
