"""Which files of the package a piece of code depends on, and whether they changed.

Imports are read from the syntax, so nothing is executed, and line endings do not matter.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "ntlib"
ROOT = Path(__file__).resolve().parents[1]


def of_code(code: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """{path below `root`: digest} of every module that the code imports, directly or through
    others, with the packages that enclose them; sorted by path."""
    imported = [path for text in code for path in _imported(text, (), root, enclosing=True)]
    return _digests(_followed(imported, root, enclosing=True), root)


def of_modules(names: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """The same for modules given by name, themselves included, without enclosing packages.

    A package's `__init__` that gathers names imports all its modules; what one of them computes
    does not depend on the others. Modules of other packages are left out.
    """
    named = [path for name in names for path in _files(tuple(name.split(".")), root, False)]
    return _digests(_followed(named, root, enclosing=False), root)


@cache
def of_package(root: Path = ROOT) -> str:
    """Digest of every module of the package, as first read by this process."""
    paths = sorted((root / PACKAGE).rglob("*.py"))
    return digest(repr(_digests(paths, root)))


def changes(stored: dict[str, str], current: dict[str, str]) -> list[str]:
    """What became of each stored file, a line for each that is not as it was."""
    lines = [
        f"{name} {'changed' if name in stored else 'is newly used'}"
        for name, value in current.items()
        if stored.get(name) != value
    ]
    return lines + [f"{name} is no longer used" for name in stored if name not in current]


def digest(text: str) -> str:
    """A short name for a text that changes with it."""
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()[:16]


def digest_file(path: Path) -> str:
    """Digest of the text of a file."""
    return digest(path.read_text(encoding="utf-8"))


def _digests(paths: Iterable[Path], root: Path) -> dict[str, str]:
    names = {path.relative_to(root).as_posix(): path for path in paths}
    return {name: digest_file(names[name]) for name in sorted(names)}


def _followed(pending: list[Path], root: Path, enclosing: bool) -> set[Path]:
    """The files and all that they import in turn."""
    found: set[Path] = set()
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            package = path.relative_to(root).parts[:-1]
            pending += _imported(path.read_text(encoding="utf-8"), package, root, enclosing)
    return found


def _imported(text: str, package: tuple[str, ...], root: Path, enclosing: bool) -> Iterator[Path]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(tuple(alias.name.split(".")), root, enclosing)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else ()
            module = start + tuple(node.module.split(".") if node.module else ())
            for alias in node.names:
                yield from _files((*module, alias.name), root, enclosing)


def _files(name: tuple[str, ...], root: Path, enclosing: bool) -> list[Path]:
    """The files that importing `name` runs: each enclosing package, then the module itself."""
    if name[0] != PACKAGE:
        return []
    places = [root.joinpath(*name[:depth]) for depth in range(1, len(name) + 1)]
    both = [(place / "__init__.py", place.with_suffix(".py")) for place in places]
    files = [path for pair in both for path in pair if path.is_file()]
    return files if enclosing else files[-1:]
