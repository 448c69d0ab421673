"""Throw-away checkouts of a very small book."""

from pathlib import Path

import nbformat
import pytest

from ntlib.publishing import notebook
from ntlib.publishing.layout import Layout

PARAMETERS = 'profile: str = "book"'


def make_notebook(*code: str, title: str = "A chapter") -> nbformat.NotebookNode:
    """A notebook with a heading, the cell of parameters and cells with the given code."""
    cells = [nbformat.v4.new_markdown_cell(f"# {title}", id="title")]
    cells.append(nbformat.v4.new_code_cell(PARAMETERS, id="parameters"))
    cells[-1].metadata["tags"] = ["parameters"]
    cells += [nbformat.v4.new_code_cell(text, id=f"code-{n}") for n, text in enumerate(code)]
    metadata = {"kernelspec": notebook.KERNELSPEC}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def pretend_executed(chapter: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same with execution counts, as if every cell had run and printed nothing."""
    for count, (_, cell) in enumerate(notebook.code_cells(chapter), start=1):
        cell.execution_count = count
    return chapter


@pytest.fixture
def checkout(tmp_path: Path) -> Layout:
    """A book of one prose page and one complete chapter, `notebooks/one.ipynb`."""
    for folder in ("book", "notebooks", "ntlib"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: book/claims\n- file: notebooks/one\n"
    )
    (tmp_path / "_config.yml").write_text(
        'title: Small\nonly_build_toc_files: true\nexecute: {execute_notebooks: "off"}\n'
    )
    (tmp_path / "book" / "index.md").write_text("# Small\n\n<!-- claims-summary -->\n")
    notebook.write(pretend_executed(make_notebook("x = 1")), tmp_path / "notebooks" / "one.ipynb")
    return Layout(tmp_path)
