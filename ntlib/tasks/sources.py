"""The text of the default corpus: Python source of packages that the environment pins.

No download is needed, every platform has the same bytes, and the text is rich in identifiers that
must be copied from far back. What is kept, in this order:

1. ``.py`` files that the packages' own records list, ordered by path; line ends become ``\\n``.
2. The split is drawn per file from a hash of its path: 90 % train, 5 % validation, 5 % test.
3. Tables of data are dropped: a line longer than 2000 bytes, or more than 60 % of the lines being
   literals (they start with a quote, digit or bracket and end with a comma or bracket).
4. Copies are dropped, training files having precedence over validation, validation over test: a
   file more than half of whose lines of 20 or more characters stand in files kept before; and
   an evaluation file that shares a whole function of 200 or more bytes with a file kept before.

Single lines, licence headers and short idioms do recur between splits, as they do in new code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

PACKAGES = {
    "docutils": "0.21.2",
    "ipython": "9.18.1",
    "jedi": "0.20.1",
    "jinja2": "3.1.6",
    "joblib": "1.6.0",
    "mpmath": "1.3.0",
    "networkx": "3.6.1",
    "parso": "0.8.7",
    "prompt_toolkit": "3.0.53",
    "pygments": "2.21.0",
    "sphinx": "7.4.7",
    "sympy": "1.14.0",
}
"""Pure Python wheels (the same files everywhere) and the versions that the book's figures use."""

LONGEST_LINE = 2000
TABLE_SHARE = 0.6
COPY_SHARE = 0.5
SHORTEST_LINE = 20
SHORTEST_FUNCTION = 200


@dataclass(frozen=True)
class SourceFile:
    """One Python file: its path inside the environment, its split and its text."""

    path: str
    split: Split
    text: bytes


def installed_versions() -> dict[str, str]:
    """Version of each package of the corpus; names the first one that is missing."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = _version(package)
        except metadata.PackageNotFoundError:
            raise ValueError(
                f"the corpus needs the package {package!r} (version {PACKAGES[package]}), which is "
                "not installed; install the versions that requirements.txt pins"
            ) from None
    return versions


def check_versions(versions: dict[str, str]) -> None:
    """Raise unless each version is the one that the book's figures were made with."""
    differing = [
        f"{package} {versions[package]} instead of {pinned}"
        for package, pinned in PACKAGES.items()
        if versions[package] != pinned
    ]
    if differing:
        raise ValueError(f"the corpus would differ from the book's: {', '.join(differing)}")


def collect() -> list[SourceFile]:
    """All kept files, train first, each split ordered by path (reads about 50 MB)."""
    installed_versions()
    files = [
        SourceFile(path, split_of(path), text)
        for package in PACKAGES
        for path, text in _python_files(package)
    ]
    return without_copies([file for file in files if not is_table(file.text)])


def split_of(path: str) -> Split:
    """The split of a file, from a hash of its path alone: stable when other files come or go."""
    draw = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") / 2**64
    return "train" if draw < 0.90 else "validation" if draw < 0.95 else "test"


def is_table(text: bytes) -> bool:
    """Whether a file is data written as Python (rule 3 above)."""
    lines = [line.strip() for line in text.split(b"\n") if line.strip()]
    if not lines:
        return True
    literal = sum(line[:1] in b"'\"0123456789-([{" and line[-1:] in b",)]}" for line in lines)
    return literal > TABLE_SHARE * len(lines) or max(map(len, lines)) > LONGEST_LINE


def without_copies(files: list[SourceFile]) -> list[SourceFile]:
    """Drop near duplicates, and evaluation files with a function seen before (rule 4 above)."""
    kept: list[SourceFile] = []
    seen_lines: set[bytes] = set()
    seen_functions: set[bytes] = set()
    for file in sorted(files, key=lambda file: (SPLITS.index(file.split), file.path)):
        lines = [line.strip() for line in file.text.split(b"\n")]
        lines = [line for line in lines if len(line) >= SHORTEST_LINE]
        if sum(line in seen_lines for line in lines) > COPY_SHARE * len(lines):
            continue
        functions = set(functions_of(file.text))
        if file.split != "train" and not functions.isdisjoint(seen_functions):
            continue
        seen_lines.update(lines)
        seen_functions |= functions
        kept.append(file)
    return kept


def functions_of(text: bytes) -> Iterator[bytes]:
    """Each function of at least 200 bytes, nested ones too, with its indentation removed.

    Found by indentation: parsing 50 MB of Python would take a minute, and a corpus may hold
    files that this Python cannot parse.
    """
    lines = text.split(b"\n")
    open_functions: list[tuple[int, int]] = []  # (indentation, first line)
    for number, line in enumerate([*lines, b"end"]):
        body = line.lstrip()
        if not body or body[:1] in b"#)]}":
            continue
        indentation = len(line) - len(body)
        while open_functions and open_functions[-1][0] >= indentation:
            _, first = open_functions.pop()
            function = b"\n".join(part.strip() for part in lines[first:number]).strip()
            if len(function) >= SHORTEST_FUNCTION:
                yield function
        if body.startswith((b"def ", b"async def ")):
            open_functions.append((indentation, number))


@cache
def _version(package: str) -> str:
    return metadata.version(package)


def _python_files(package: str) -> Iterator[tuple[str, bytes]]:
    """Path inside the environment and text of a package's own ``.py`` files, ordered by path."""
    listed = metadata.files(package)
    if not listed:
        raise ValueError(
            f"the installation of {package!r} has no list of files; reinstall it with pip"
        )
    own = {entry.as_posix(): entry for entry in listed if entry.suffix == ".py"}
    for path in sorted(own):
        if path.startswith(".."):  # a script outside of the package directory
            continue
        text = own[path].locate().read_bytes().replace(b"\r\n", b"\n")
        # The corpus marks the end of a file with a zero byte, so none may occur inside.
        yield path, text.replace(b"\0", b"")
