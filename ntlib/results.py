"""Recorded results: rows of a long run, with what is needed to judge and to repeat it.

A record is two text files in ``data/results``: ``<experiment>.csv``, one observation per row, and
``<experiment>.json``, its provenance. Chapters plot recorded rows beside live ones and print
:func:`provenance_line` below.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ntlib import dependencies
from ntlib.measuring.provenance import environment

DIRECTORY = Path(__file__).resolve().parents[1] / "data" / "results"

REQUIRED = {
    "experiment": "name of the record, equal to the file's",
    "command": "what to type to make it again",
    "seeds": "list of seeds that the rows come from",
    "profile": "smoke, book or full",
    "duration_s": "seconds that the run took",
    "columns": "name -> meaning and unit, for each column of the CSV file",
    "rows": "number of rows",
    "environment": "ntlib.measuring.environment() at the time of the run",
}
OPTIONAL = {
    "sources": "{file of ntlib: digest} of the code that made the rows, as it was",
    "runs": "digest of all values that define the runs",
    "machines": "where they were computed, see ntlib.experiments.machines",
}
REQUIRED_ENVIRONMENT = ("cpu", "threads", "gpu", "python", "torch", "numpy", "date", "git_commit")


def save(
    experiment: str,
    frame: pd.DataFrame,
    *,
    command: str,
    seeds: Sequence[int],
    profile: str,
    duration_s: float,
    columns: Mapping[str, str],
    origin: Mapping[str, object] | None = None,
    directory: Path = DIRECTORY,
) -> Path:
    """Write a record and return the path of its CSV file.

    experiment: file name without suffix: lower-case letters, digits, "_" and "-".
    frame: one observation per row; the index is not stored.
    columns: meaning and unit of each column of ``frame``.
    origin: values for keys of OPTIONAL; without "sources" a record is neither fresh nor stale.
    """
    if not re.fullmatch(r"[a-z0-9_-]+", experiment):
        raise ValueError(
            "experiment must consist of lower-case letters, digits, '_' and '-', "
            f"got {experiment!r}"
        )
    provenance = {
        "experiment": experiment,
        "command": command,
        "seeds": list(seeds),
        "profile": profile,
        "duration_s": duration_s,
        "columns": dict(columns),
        "rows": len(frame),
        "environment": environment(),
        **(origin or {}),
    }
    check(frame, provenance)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{experiment}.csv"
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))
    described = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path.with_suffix(".json"), described)
    return path


def load(experiment: str, directory: Path = DIRECTORY) -> tuple[pd.DataFrame, dict[str, object]]:
    """Rows and provenance of a record."""
    path = directory / f"{experiment}.csv"
    if not path.is_file():
        known = sorted(file.stem for file in directory.glob("*.csv"))
        raise ValueError(f"no recorded results {experiment!r} in {directory}; there are {known}")
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        raise ValueError(f"{path.name} has no provenance: {sidecar.name} is missing beside it")
    frame, provenance = pd.read_csv(path), json.loads(sidecar.read_text())
    check(frame, provenance)
    if provenance["experiment"] != experiment:
        raise ValueError(
            f"{sidecar.name} says experiment {provenance['experiment']!r}, not {experiment!r}"
        )
    return frame, provenance


def check(frame: pd.DataFrame, provenance: Mapping[str, object]) -> None:
    """Raise ``ValueError`` that names what is missing or does not fit."""
    for key, meaning in REQUIRED.items():
        if key not in provenance:
            raise ValueError(f"provenance lacks {key!r}: {meaning}")
    for key in REQUIRED_ENVIRONMENT:
        if key not in provenance["environment"]:
            raise ValueError(f"provenance's environment lacks {key!r}")
    if unknown := set(provenance) - set(REQUIRED) - set(OPTIONAL):
        raise ValueError(f"provenance has unknown {sorted(unknown)}; optional are {list(OPTIONAL)}")
    if len(frame) != provenance["rows"]:
        raise ValueError(f"the CSV has {len(frame)} rows, its provenance says {provenance['rows']}")
    if len(frame) == 0:
        raise ValueError("frame has no rows; a record holds at least one observation")
    described = set(provenance["columns"])
    if described != set(frame.columns):
        raise ValueError(
            f"columns described but absent: {sorted(described - set(frame.columns))}; "
            f"present but not described: {sorted(set(frame.columns) - described)}"
        )


def provenance_line(provenance: Mapping[str, object]) -> str:
    """One sentence for below a figure: where and when the rows were measured, and how again."""
    where = provenance["environment"]
    seeds = provenance["seeds"]
    return (
        f"Recorded on {where['date'][:10]} on {where['gpu'] or where['cpu']}, "
        f"{where['threads']} threads, torch {where['torch']}, "
        f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}, "
        f"{_duration(provenance['duration_s'])}; again: {provenance['command']}"
    )


def outdated(provenance: Mapping[str, object]) -> list[str] | None:
    """What changed in the code since a record was made, a line per file; None if it does not say.

    A module that is newly used needs no look: one that was used before must have changed for it.
    """
    if "sources" not in provenance:
        return None
    stored = provenance["sources"]
    paths = {name: dependencies.ROOT / name for name in stored}
    current = {
        name: dependencies.digest_file(path) for name, path in paths.items() if path.is_file()
    }
    return dependencies.changes(stored, current)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside the file and rename, so that no reader ever sees half of it."""
    if isinstance(content, str):
        content = content.encode()
    handle, work = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(work).chmod(0o644)  # mkstemp makes files that only the owner can read
        Path(work).replace(path)
    except BaseException:
        Path(work).unlink(missing_ok=True)
        raise


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
