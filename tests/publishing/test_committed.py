"""What holds for every chapter in the repository."""

import ast
import base64
import io
import re
import tokenize
from pathlib import Path

import pytest

from ntlib.publishing import freshness, notebook
from ntlib.publishing.layout import Layout

LAYOUT = Layout(Path(__file__).resolve().parents[2])
FORBIDDEN_TAGS = {"raises-exception", "skip-execution", "nbval-skip", "nbval-raises-exception"}
TOP_FOLDERS = "|".join(re.escape(path.name) for path in Path("/").iterdir() if path.is_dir())
ABSOLUTE_PATH = re.compile(rf"(?<![\w.:/<)])/(?:{TOP_FOLDERS})/[\w.]+")

each_chapter = pytest.mark.parametrize("path", LAYOUT.chapters(), ids=lambda path: path.stem)


def texts(cell) -> list[str]:
    """All text of a code cell's outputs."""
    data = [output.get("data", {}) for output in cell.outputs]
    shown = [part for bundle in data for kind, part in bundle.items() if kind.startswith("text/")]
    return shown + [output.text for output in cell.outputs if output.output_type == "stream"]


def test_the_table_of_contents_names_every_chapter_and_no_other():
    named = {Path(name).name for name in LAYOUT.toc_documents() if name.startswith("notebooks/")}
    assert named == {path.stem for path in LAYOUT.chapters()}


@each_chapter
def test_outputs_are_complete_and_belong_to_the_code(path):
    assert notebook.incomplete(notebook.read(path)) == []
    assert freshness.check(path, LAYOUT.root) == [], f"make notebooks ONLY={path.stem}"


@each_chapter
def test_the_file_is_in_canonical_form(path):
    canonical = notebook.as_bytes(notebook.normalise(notebook.read(path), drop_injected=True))
    assert path.read_bytes() == canonical, "run `make format`"


@each_chapter
def test_the_file_is_small(path):
    assert path.stat().st_size <= 2e6  # a chapter with two moving figures has 1.8
    for number, cell in notebook.code_cells(notebook.read(path)):
        for output in cell.outputs:
            png = output.get("data", {}).get("image/png", "")
            assert len(base64.b64decode(png)) <= 60_000, f"the picture of cell {number}"


@each_chapter
def test_one_cell_of_parameters_chooses_the_profile(path):
    cells = [cell for _, cell in notebook.code_cells(notebook.read(path))]
    tagged = [cell for cell in cells if "parameters" in notebook.tags(cell)]
    assert len(tagged) == 1
    assert 'profile: str = "book"' in tagged[0].source


@each_chapter
def test_enough_cells_are_compared_on_a_rerun(path):
    compared, cells = notebook.compared_share(notebook.read(path))
    assert compared / cells >= 0.3, f"{compared} of {cells}"


@each_chapter
def test_cells_are_plain_python_that_is_meant_to_succeed(path):
    for number, cell in notebook.code_cells(notebook.read(path)):
        ast.parse(cell.source)
        assert not FORBIDDEN_TAGS & set(notebook.tags(cell)), f"cell {number}"
        tokens = tokenize.generate_tokens(io.StringIO(cell.source).readline)
        semicolons = [token for token in tokens if token.string == ";"]
        assert not semicolons, f"cell {number}: nbval sees an output that the semicolon hides"


@each_chapter
def test_no_path_of_somebodys_machine(path):
    for number, cell in notebook.code_cells(notebook.read(path)):
        for text in [cell.source, *texts(cell)]:
            found = ABSOLUTE_PATH.search(text)
            assert found is None, f"cell {number}: {found.group()}"
