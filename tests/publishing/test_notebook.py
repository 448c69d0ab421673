"""The canonical form of notebooks."""

import nbformat
import pytest

from ntlib.publishing import notebook
from tests.publishing.conftest import make_notebook, pretend_executed


@pytest.fixture
def messy() -> nbformat.NotebookNode:
    """What a run leaves behind: timings, paths, split prints, gaps in the count, widget state."""
    chapter = pretend_executed(make_notebook("print(1)\r\nprint(2)", "x = 3\nx"))
    injected = nbformat.v4.new_code_cell('profile = "book"', execution_count=9)
    injected.metadata = {"tags": ["injected-parameters"]}
    chapter.cells.insert(2, injected)
    chapter.metadata |= {
        "papermill": {"duration": 1.5, "input_path": "/home/me/x.ipynb"},
        "widgets": {"state": {}},
        "ntlib": {"profile": "book"},
    }
    printing, showing = chapter.cells[3:]
    printing.metadata = {"papermill": {"duration": 1}, "execution": {}, "tags": ["b", "a", "b"]}
    streams = [nbformat.v4.new_output("stream", name="stdout", text=f"{n}\n") for n in (1, 2)]
    printing.outputs = streams
    showing.execution_count = 17
    showing.outputs = [
        nbformat.v4.new_output(
            "execute_result", {"text/plain": "3"}, execution_count=17, metadata={"isolated": True}
        )
    ]
    return chapter


def test_normalising_removes_what_differs_between_equal_runs(messy):
    clean = notebook.normalise(messy, drop_injected=True)
    assert set(clean.metadata) == {"kernelspec", "language_info", "ntlib"}
    assert [cell.id for cell in clean.cells] == ["title", "parameters", "code-0", "code-1"]
    printing, showing = clean.cells[2:]
    assert printing.metadata == {"tags": ["a", "b"]}
    assert printing.source == "print(1)\nprint(2)"
    assert [output.text for output in printing.outputs] == ["1\n2\n"]
    assert [cell.execution_count for _, cell in notebook.code_cells(clean)] == [1, 2, 3]
    assert showing.outputs[0].execution_count == 3
    assert showing.outputs[0].metadata == {}
    nbformat.validate(clean)


def test_normalising_twice_gives_the_same_bytes(messy, tmp_path):
    once = notebook.normalise(messy, drop_injected=True)
    notebook.write(once, tmp_path / "once.ipynb")
    twice = notebook.normalise(notebook.read(tmp_path / "once.ipynb"), drop_injected=True)
    assert notebook.as_bytes(twice) == (tmp_path / "once.ipynb").read_bytes()


def test_normalising_leaves_its_argument_alone(messy):
    before = notebook.as_bytes(messy)
    notebook.normalise(messy, drop_injected=True)
    assert notebook.as_bytes(messy) == before


def test_values_other_than_the_default_stay_visible(messy):
    kept = notebook.normalise(messy, drop_injected=False)
    assert "injected-parameters" in notebook.tags(kept.cells[2])


def test_writing_leaves_no_temporary_file(tmp_path):
    notebook.write(make_notebook("x = 1"), tmp_path / "one.ipynb")
    assert [path.name for path in tmp_path.iterdir()] == ["one.ipynb"]


def test_incomplete_names_cells_not_executed_and_cells_that_failed():
    chapter = pretend_executed(make_notebook("x = 1", "1 / 0", "", "y = 2"))
    chapter.cells[-1].execution_count = None
    chapter.cells[3].outputs = [
        nbformat.v4.new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])
    ]
    assert notebook.incomplete(chapter) == [
        "cell 4 failed with ZeroDivisionError: 1 / 0",
        "cell 6 was not executed: y = 2",
    ]


def test_compared_share_counts_tagged_cells():
    chapter = make_notebook("print(1)", "print(2)", "print(3)")
    chapter.cells[-1].metadata["tags"] = ["nbval-check-output"]
    assert notebook.compared_share(chapter) == (1, 4)
