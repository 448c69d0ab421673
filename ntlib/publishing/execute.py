"""Runs chapters with papermill, one after the other, and keeps what came out in canonical form."""

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click
import papermill
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from ntlib.publishing import freshness, notebook
from ntlib.publishing.layout import Layout

# Seconds one cell may take. A chapter of the full profile may train for hours.
CELL_TIMEOUT = {"smoke": 600, "book": 1800, "full": None}
TIMINGS = "seconds.json"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Outcome:
    """How one chapter's run ended; `failure` is None or a report with cell and traceback."""

    stem: str
    seconds: float
    failure: str | None


def check_parameters(path: Path, parameters: dict) -> None:
    """Refuses what papermill would inject without a word: unknown names, unknown profiles.

    Raises click.UsageError that lists what would be right.
    """
    if "kernelspec" not in notebook.read(path).metadata:
        raise click.UsageError(f"{path.name} names no kernel; its metadata needs a kernelspec")
    valid = sorted(papermill.inspect_notebook(path))
    for name in parameters:
        if name not in valid:
            listed = ", ".join(valid) or "none (no cell is tagged `parameters`)"
            raise click.UsageError(f"{path.stem} has no parameter {name!r}; it has: {listed}")
    if parameters.get("profile", "book") not in CELL_TIMEOUT:
        profiles = ", ".join(CELL_TIMEOUT)
        raise click.UsageError(f"unknown profile {parameters['profile']!r}; there are: {profiles}")


def execute(
    layout: Layout, paths: Iterable[Path], parameters: dict, *, write_back: bool = False
) -> list[Outcome]:
    """Runs each notebook in the notebooks' folder; a failing one does not stop the others.

    Results go to `layout.executed(profile)`. `write_back` also replaces the committed notebooks
    that ran, but only by what readers get by default: the book profile and no other parameter.
    Raises click.UsageError before anything runs if a parameter is unknown to a notebook.
    """
    paths = list(paths)
    for path in paths:
        check_parameters(path, parameters)
    # Kernels must be this interpreter's, whatever is installed for the user.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    target = layout.executed(parameters["profile"])
    target.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with tqdm(paths, unit="chapter", desc="Chapters", **_bar()) as bar:
        for path in bar:
            outcome = _run(layout, path, target, parameters)
            outcomes.append(outcome)
            if outcome.failure:
                bar.write(outcome.failure, file=sys.stderr)
            elif write_back and parameters == {"profile": freshness.COMMITTED_PROFILE}:
                notebook.write(notebook.read(target / path.name), path)
    _record_timings(target / TIMINGS, outcomes)
    return outcomes


def report(outcomes: list[Outcome]) -> str:
    """The closing table: chapter, seconds, ok or FAILED."""
    width = max([len("chapter"), *(len(outcome.stem) for outcome in outcomes)])
    rows = [f"{'chapter':<{width}}  seconds  result"]
    for outcome in outcomes:
        result = "FAILED" if outcome.failure else "ok"
        rows.append(f"{outcome.stem:<{width}}  {outcome.seconds:7.1f}  {result}")
    return "\n".join(rows)


def _run(layout: Layout, path: Path, target: Path, parameters: dict) -> Outcome:
    """Only a complete run leaves `target/<name>`; a failed one leaves `<stem>.failed.ipynb`."""
    running, failed = target / f".{path.stem}.running.ipynb", target / f"{path.stem}.failed.ipynb"
    for stale in (target / path.name, failed):
        stale.unlink(missing_ok=True)
    started, failure = time.perf_counter(), None
    try:
        # Before the run: whoever edits a module meanwhile gets a stale notebook, no wrong stamp.
        stamp = freshness.stamp(notebook.read(path), layout.root, parameters["profile"])
        _call_papermill(layout, path, running, parameters)
        _keep(running, target / path.name, stamp, parameters)
    except Exception as error:  # whatever it is, the other chapters go on
        failure = _describe(path, running, error)
        if running.exists():
            os.replace(running, failed)
    running.unlink(missing_ok=True)
    return Outcome(path.stem, time.perf_counter() - started, failure)


def _call_papermill(layout: Layout, path: Path, output: Path, parameters: dict) -> None:
    papermill.execute_notebook(
        path,
        output,
        parameters,
        kernel_name="python3",
        cwd=layout.notebooks,
        progress_bar={"desc": path.stem, "position": 1, "leave": False, **_bar()},
        execution_timeout=CELL_TIMEOUT[parameters["profile"]],
        # Else every kernel starts with a warning about TCP, on a connection that stays local.
        extra_arguments=["--IPKernelApp.log_level=40"],
    )


def _keep(running: Path, target: Path, stamp: dict, parameters: dict) -> None:
    executed = notebook.read(running)
    executed.metadata["ntlib"] = stamp
    # With other values than its own defaults, the notebook must show which they were.
    by_default = parameters == {"profile": freshness.COMMITTED_PROFILE}
    result = notebook.normalise(executed, drop_injected=by_default)
    if faults := notebook.incomplete(result):
        raise ValueError("; ".join(faults))
    notebook.write(result, target)


def _describe(path: Path, running: Path, error: Exception) -> str:
    """Names the notebook, the cell by its number in the source, and shows cell and traceback."""
    number, source = _culprit(path, running)
    if isinstance(error, PapermillExecutionError):
        details = "\n".join(error.traceback) or f"{error.ename}: {error.evalue}"
    else:
        details = "".join(traceback.format_exception_only(error))
    where = f"{path.stem} failed in cell {number}" if number else f"{path.stem} failed"
    cell = "".join(f"  | {line}\n" for line in source.splitlines())
    return f"\n{where}\n{cell}{ANSI.sub('', details).rstrip()}\n"


def _culprit(path: Path, running: Path) -> tuple[int, str]:
    """(number, source) of the cell that papermill was in; (0, "") if it had not begun."""
    if not running.exists():
        return 0, ""
    state = {cell.id: cell.metadata.get("papermill", {}) for cell in notebook.read(running).cells}
    for number, cell in notebook.code_cells(notebook.read(path)):
        cell_state = state.get(cell.id, {})
        if cell_state.get("exception") or cell_state.get("status") in ("running", "failed"):
            return number, cell.source
    return 0, ""


def _bar() -> dict:
    """A log file gets few lines of progress, a terminal many."""
    return {"mininterval": 0.1 if sys.stderr.isatty() else 30.0, "dynamic_ncols": True}


def _record_timings(path: Path, outcomes: list[Outcome]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    known |= {outcome.stem: round(outcome.seconds, 1) for outcome in outcomes}
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
