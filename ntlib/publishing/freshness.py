"""Do a notebook's stored outputs belong to the code that stands there now?

A stamp in the notebook's metadata holds a digest of every code cell, of every `ntlib` module that
those cells import, directly or through others, of the recorded results they name and of the bounds
of the claims they report.
"""

import ast
import json
import re
from pathlib import Path

import yaml
from nbformat import NotebookNode

from ntlib import dependencies
from ntlib.publishing import notebook as notebooks

STAMP = "ntlib"  # key of a notebook's metadata
COMMITTED_PROFILE = "book"


def stamp(notebook: NotebookNode, root: Path, profile: str) -> dict:
    """What `metadata.ntlib` of an executed notebook holds; raises SyntaxError on a broken cell."""
    cells = [cell for _, cell in notebooks.code_cells(notebook) if not _injected(cell)]
    code = [cell.source for cell in cells]
    return {
        "cells": [f"{cell.id} {dependencies.digest(cell.source)}" for cell in cells],
        "profile": profile,
        "sources": sources(code, root) | _bounds(code, root),
    }


def check(path: Path, root: Path) -> list[str]:
    """Why the notebook at `path` must be executed again, a line per reason; empty if fresh."""
    notebook = notebooks.read(path)
    stored = notebook.metadata.get(STAMP)
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
    return reasons + dependencies.changes(stored["sources"], current["sources"])


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


def sources(code: list[str], root: Path) -> dict[str, str]:
    """{path below `root`: digest} of the modules and the recorded results that the code uses."""
    records = {
        path.relative_to(root).as_posix(): dependencies.digest_file(path)
        for path in _records(code, root)
    }
    return dict(sorted((records | dependencies.of_code(code, root)).items()))


def _records(code: list[str], root: Path) -> list[Path]:
    """Recorded results that the code names, as in `results.load("decoding")`."""
    names = (name for name in _strings(code) if re.fullmatch(r"[a-z0-9_-]+", name))
    paths = (root / "data" / "results" / f"{name}.csv" for name in names)
    return [path for path in paths if path.is_file()]


def _bounds(code: list[str], root: Path) -> dict[str, str]:
    """Digests of what decides the verdicts on the claims that the code reports."""
    ledger = root / "data" / "claims.yaml"
    if not ledger.is_file():
        return {}
    claims = yaml.safe_load(ledger.read_text(encoding="utf-8"))
    decisive = {entry["id"]: [entry["quantity"], entry["bounds"]] for entry in claims}
    return {
        f"data/claims.yaml: {name}": dependencies.digest(json.dumps(decisive[name], sort_keys=True))
        for name in sorted(_strings(code) & set(decisive))
    }


def _strings(code: list[str]) -> set[str]:
    nodes = (node for cell in code for node in ast.walk(ast.parse(cell)))
    constants = {node.value for node in nodes if isinstance(node, ast.Constant)}
    return {value for value in constants if isinstance(value, str)}


def _injected(cell: NotebookNode) -> bool:
    return "injected-parameters" in notebooks.tags(cell)
