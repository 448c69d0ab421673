"""Stale outputs are found, and the reason is named; prose may change freely."""

import pytest

from ntlib.publishing import freshness, notebook
from tests.publishing.conftest import make_notebook, pretend_executed

MODULES = {
    "__init__.py": "",
    "used.py": "from .deep import inner\n",
    "deep/__init__.py": "",
    "deep/inner.py": "def later():\n    from ntlib.deep import lazy\n",
    "deep/lazy.py": "VALUE = 1\n",
    "unused.py": "VALUE = 2\n",
}
LEDGER = "- {id: a-claim, title: t, quantity: {name: n, format: .1f}, bounds: [1, 2]}\n"


@pytest.fixture
def chapter(checkout):
    """The path of a fresh chapter that uses `ntlib.used`, a record and a claim."""
    for name, text in MODULES.items():
        path = checkout.root / "ntlib" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (checkout.root / "data" / "results").mkdir(parents=True)
    (checkout.root / "data" / "results" / "decoding-7b.csv").write_text("a,b\n1,2\n")
    (checkout.root / "data" / "claims.yaml").write_text(LEDGER)
    code = ["from ntlib import used", 'load("decoding-7b")\nreport("a-claim")']
    executed = pretend_executed(make_notebook(*code))
    executed.metadata["ntlib"] = freshness.stamp(executed, checkout.root, "book")
    path = checkout.notebooks / "one.ipynb"
    notebook.write(executed, path)
    assert freshness.check(path, checkout.root) == []
    return path


def edit(path, change):
    chapter = notebook.read(path)
    change(chapter)
    notebook.write(chapter, path)


def test_dependencies_are_followed_through_packages_and_late_imports(checkout, chapter):
    assert set(notebook.read(chapter).metadata.ntlib.sources) == {
        "ntlib/__init__.py",
        "ntlib/used.py",
        "ntlib/deep/__init__.py",
        "ntlib/deep/inner.py",
        "ntlib/deep/lazy.py",
        "data/results/decoding-7b.csv",
        "data/claims.yaml: a-claim",
    }


@pytest.mark.parametrize("module", [name for name in MODULES if name != "unused.py"])
def test_a_changed_module_is_named(checkout, chapter, module):
    path = checkout.root / "ntlib" / module
    path.write_text(path.read_text() + "# changed\n")
    assert freshness.check(chapter, checkout.root) == [f"ntlib/{module} changed"]


def test_a_changed_record_and_a_changed_bound_are_named(checkout, chapter):
    (checkout.root / "data" / "results" / "decoding-7b.csv").write_text("a,b\n1,3\n")
    (checkout.root / "data" / "claims.yaml").write_text(LEDGER.replace("[1, 2]", "[1, 3]"))
    assert set(freshness.check(chapter, checkout.root)) == {
        "data/results/decoding-7b.csv changed",
        "data/claims.yaml: a-claim changed",
    }


def test_a_new_import_and_a_lost_one_are_named(checkout, chapter):
    (checkout.root / "ntlib" / "deep" / "inner.py").write_text("from ntlib import unused\n")
    assert set(freshness.check(chapter, checkout.root)) == {
        "ntlib/deep/inner.py changed",
        "ntlib/unused.py is newly used",
        "ntlib/deep/lazy.py is no longer used",
    }


def test_a_changed_cell_is_named_by_its_number(checkout, chapter):
    edit(
        chapter, lambda nb: nb.cells[3].update(source='load("decoding-7b")\nreport("a-claim") # !')
    )
    assert freshness.check(chapter, checkout.root) == ["cell 4 (id code-1) changed"]


def test_new_lost_and_moved_cells_are_named(checkout, chapter):
    edit(chapter, lambda nb: nb.cells.insert(2, nb.cells.pop(3)))
    moved = "its code cells were put in another order"
    assert freshness.check(chapter, checkout.root) == [moved]
    edit(chapter, lambda nb: nb.cells[1].update(id="other"))
    assert freshness.check(chapter, checkout.root) == [
        "cell 2 (id other) is new",
        "a code cell (id parameters) was removed",
    ]


def test_prose_tags_unused_modules_and_line_endings_may_change(checkout, chapter):
    edit(chapter, lambda nb: nb.cells[0].update(source="# Another title"))
    edit(chapter, lambda nb: nb.cells[3].metadata.update(tags=["nbval-check-output"]))
    (checkout.root / "ntlib" / "unused.py").write_text("VALUE = 3\n")
    for name in MODULES:
        path = checkout.root / "ntlib" / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert freshness.check(chapter, checkout.root) == []


def test_another_profile_a_missing_stamp_and_a_broken_cell_are_told(checkout, chapter):
    edit(chapter, lambda nb: nb.metadata.ntlib.update(profile="smoke"))
    assert freshness.check(chapter, checkout.root) == ["its profile is 'smoke', not 'book'"]
    edit(chapter, lambda nb: nb.cells[2].update(source="%matplotlib inline"))
    assert "not Python" in freshness.check(chapter, checkout.root)[-1]
    edit(chapter, lambda nb: nb.metadata.pop("ntlib"))
    assert "no stamp" in freshness.check(chapter, checkout.root)[0]
