"""Do a notebook's stored outputs belong to the code that stands there now?

A stamp in the notebook's metadata holds a digest of every code cell, of every `ntlib` module that
those cells import, directly or through others, of the recorded results they name and of the bounds
of the claims they report. Imports are read from the syntax, so nothing is executed, and line
endings do not matter.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from nbformat import NotebookNode

from ntlib.publishing import notebook as notebooks

PACKAGE = "ntlib"
COMMITTED_PROFILE = "book"


def stamp(notebook: NotebookNode, root: Path, profile: str) -> dict:
    """What `metadata.ntlib` of an executed notebook holds; raises SyntaxError on a broken cell."""
    cells = [cell for _, cell in notebooks.code_cells(notebook) if not _injected(cell)]
    code = [cell.source for cell in cells]
    return {
        "cells": [f"{cell.id} {_digest(cell.source)}" for cell in cells],
        "profile": profile,
        "sources": sources(code, root) | _bounds(code, root),
    }


def check(path: Path, root: Path) -> list[str]:
    """Why the notebook at `path` must be executed again, a line per reason; empty if fresh."""
    notebook = notebooks.read(path)
    stored = notebook.metadata.get(PACKAGE)
    if not stored:
        return ["it carries no stamp: its outputs were not written by `make notebooks`"]
    reasons = []
    if stored["profile"] != COMMITTED_PROFILE:
        reasons.append(f"its profile is {stored['profile']!r}, not {COMMITTED_PROFILE!r}")
    try:
        current = stamp(notebook, root, COMMITTED_PROFILE)
    except SyntaxError as error:
        return [*reasons, f"a code cell is not Python: {error}"]
    reasons += _cell_changes(notebook, stored["cells"], current["cells"])
    return reasons + _source_changes(stored["sources"], current["sources"])


def _cell_changes(notebook: NotebookNode, stored: list[str], current: list[str]) -> list[str]:
    numbers = {cell.id: number for number, cell in notebooks.code_cells(notebook)}
    before = dict(entry.split() for entry in stored)
    now = dict(entry.split() for entry in current)
    changes = [
        f"cell {numbers[cell]} (id {cell}) {'changed' if cell in before else 'is new'}"
        for cell, digest in now.items()
        if before.get(cell) != digest
    ]
    changes += [f"a code cell (id {cell}) was removed" for cell in before if cell not in now]
    return changes or ([] if stored == current else ["its code cells were put in another order"])


def _source_changes(stored: dict[str, str], current: dict[str, str]) -> list[str]:
    changes = [
        f"{name} {'changed' if name in stored else 'is newly used'}"
        for name, digest in current.items()
        if stored.get(name) != digest
    ]
    return changes + [f"{name} is no longer used" for name in stored if name not in current]


def sources(code: Iterable[str], root: Path) -> dict[str, str]:
    """{path below `root`: digest} of all that the code depends on, sorted by path."""
    trees = [ast.parse(text) for text in code]
    found: set[Path] = {path for tree in trees for path in _records(_strings(tree), root)}
    pending = [path for tree in trees for path in _imported(tree, root, package=())]
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            pending += _imported(tree, root, package=path.relative_to(root).parts[:-1])
    names = {path.relative_to(root).as_posix(): path for path in found}
    return {name: _digest(names[name].read_text(encoding="utf-8")) for name in sorted(names)}


def _imported(tree: ast.AST, root: Path, package: tuple[str, ...]) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module_files(tuple(alias.name.split(".")), root)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else ()
            module = start + tuple(node.module.split(".") if node.module else ())
            for alias in node.names:
                yield from _module_files((*module, alias.name), root)


def _module_files(name: tuple[str, ...], root: Path) -> Iterator[Path]:
    """The files that importing `name` runs: each enclosing package, then the module itself."""
    if name[0] != PACKAGE:
        return
    for depth in range(1, len(name) + 1):
        place = root.joinpath(*name[:depth])
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                yield path


def _records(strings: set[str], root: Path) -> list[Path]:
    """Recorded results that the code names, as in `results.load("decoding")`."""
    names = (name for name in strings if re.fullmatch(r"[a-z0-9_-]+", name))
    paths = (root / "data" / "results" / f"{name}.csv" for name in names)
    return [path for path in paths if path.is_file()]


def _bounds(code: Iterable[str], root: Path) -> dict[str, str]:
    """Digests of what decides the verdicts on the claims that the code reports."""
    ledger = root / "data" / "claims.yaml"
    if not ledger.is_file():
        return {}
    strings = {text for cell in code for text in _strings(ast.parse(cell))}
    claims = yaml.safe_load(ledger.read_text(encoding="utf-8"))
    decisive = {entry["id"]: [entry["quantity"], entry["bounds"]] for entry in claims}
    return {
        f"data/claims.yaml: {name}": _digest(json.dumps(decisive[name], sort_keys=True))
        for name in sorted(strings & set(decisive))
    }


def _strings(tree: ast.AST) -> set[str]:
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


def _injected(cell: NotebookNode) -> bool:
    return "injected-parameters" in notebooks.tags(cell)


def _digest(text: str) -> str:
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()[:16]
