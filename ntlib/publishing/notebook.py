"""Notebooks as files: one canonical form, so that diffs show content only."""

import os
from pathlib import Path

import nbformat
from nbformat import NotebookNode

KEPT_CELL_METADATA = ("mystnb", "tags")
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE_INFO = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"}


def read(path: Path) -> NotebookNode:
    """A notebook in format 4.5, the first with cell ids."""
    return nbformat.read(path, as_version=4)


def write(notebook: NotebookNode, path: Path) -> None:
    """Writes beside `path`, then renames: a killed run leaves no half-written notebook."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(as_bytes(notebook))
    os.replace(temporary, path)


def as_bytes(notebook: NotebookNode) -> bytes:
    """The one spelling of a notebook: sorted keys, one space of indent, UTF-8, `\\n`."""
    return (nbformat.writes(notebook) + "\n").encode()


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """(number, cell) of each cell with code; numbers count all cells from 1, as a reader does."""
    numbered = enumerate(notebook.cells, start=1)
    return [(n, cell) for n, cell in numbered if cell.cell_type == "code" and cell.source.strip()]


def tags(cell: NotebookNode) -> list[str]:
    """The cell's tags, sorted."""
    return sorted(cell.metadata.get("tags", []))


def normalise(notebook: NotebookNode, *, drop_injected: bool) -> NotebookNode:
    """The same notebook without anything that differs between two equal runs.

    Removes timings, paths, widget state and the editor's metadata; fixes the kernel's description,
    numbers executed cells from 1 and merges neighbouring prints. `drop_injected` also removes the
    cell of parameters that papermill adds. Applying it twice changes nothing more.
    """
    result = nbformat.from_dict(notebook)
    if drop_injected:
        result.cells = [cell for cell in result.cells if "injected-parameters" not in tags(cell)]
    stamp = result.metadata.get("ntlib")
    result.metadata = nbformat.from_dict(
        {"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO}
        | ({"ntlib": stamp} if stamp else {})
    )
    result.nbformat, result.nbformat_minor = 4, 5
    for cell in result.cells:
        _normalise_cell(cell)
    _number(result)
    return result


def _normalise_cell(cell: NotebookNode) -> None:
    kept = {key: cell.metadata[key] for key in KEPT_CELL_METADATA if cell.metadata.get(key)}
    if "tags" in kept:
        kept["tags"] = sorted(set(kept["tags"]))
    cell.metadata = nbformat.from_dict(kept)
    cell.source = cell.source.replace("\r\n", "\n")
    if cell.cell_type == "code":
        cell.outputs = _merge_streams(cell.outputs)
        for output in cell.outputs:
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def _number(notebook: NotebookNode) -> None:
    executed = (
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.execution_count is not None
    )
    for count, cell in enumerate(executed, start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count


def incomplete(notebook: NotebookNode) -> list[str]:
    """One line for each code cell that was not executed or that holds an error; none is well."""
    faults = []
    for number, cell in code_cells(notebook):
        if cell.execution_count is None:
            faults.append(f"cell {number} was not executed: {_first_line(cell)}")
        for output in cell.outputs:
            if output.output_type == "error":
                faults.append(f"cell {number} failed with {output.ename}: {_first_line(cell)}")
    return faults


def compared_share(notebook: NotebookNode) -> tuple[int, int]:
    """(cells whose stored outputs a rerun must reproduce, all code cells)."""
    cells = [cell for _, cell in code_cells(notebook)]
    return sum("nbval-check-output" in tags(cell) for cell in cells), len(cells)


def _first_line(cell: NotebookNode) -> str:
    return cell.source.strip().splitlines()[0]
