"""Running chapters: what is refused beforehand, what a failure looks like, what is written back."""

import json
import sys

import click
import pytest
from click.testing import CliRunner

from ntlib.__main__ import main
from ntlib.profiles import PROFILES
from ntlib.publishing import execute, freshness, notebook
from tests.publishing.conftest import make_notebook

BOOK = {"profile": "book"}


@pytest.fixture
def chapters(checkout):
    """Two chapters that run and, between them in reading order, one that fails in its cell 4."""
    good = make_notebook("import os", "print(os.path.basename(os.getcwd()), profile)")
    bad = make_notebook("numerator = 1", "denominator = 0\nnumerator / denominator", "print('no')")
    for name, chapter in {"a_good": good, "b_bad": bad, "c_good": good}.items():
        notebook.write(chapter, checkout.notebooks / f"{name}.ipynb")
    (checkout.notebooks / "one.ipynb").unlink()
    return checkout


@pytest.mark.parametrize("profile", ["smok", "Book", ""])
def test_unknown_profile_is_refused_with_the_valid_ones(checkout, profile):
    with pytest.raises(click.UsageError, match=r"unknown profile .*smoke, book, full"):
        execute.execute(checkout, checkout.chapters(), {"profile": profile})


def test_the_profiles_are_those_that_chapters_know():
    assert set(execute.CELL_TIMEOUT) == set(PROFILES)


def test_misspelt_parameter_is_refused_with_the_valid_ones(checkout):
    with pytest.raises(click.UsageError, match=r"one has no parameter 'profil'; it has: profile"):
        execute.execute(checkout, checkout.chapters(), BOOK | {"profil": "smoke"})
    assert not checkout.build.exists(), "something ran before all parameters were checked"


def test_notebook_without_parameters_cell_says_so(checkout):
    path = checkout.notebooks / "one.ipynb"
    chapter = notebook.read(path)
    chapter.cells[1].metadata = {}
    notebook.write(chapter, path)
    with pytest.raises(click.UsageError, match="no cell is tagged `parameters`"):
        execute.check_parameters(path, BOOK)


def test_only_matches_parts_of_names_and_lists_them_otherwise(chapters):
    assert [path.stem for path in chapters.chapters("good")] == ["a_good", "c_good"]
    assert [path.stem for path in chapters.chapters("a_, bad")] == ["a_good", "b_bad"]
    with pytest.raises(click.UsageError, match="'mamba'; there is a_good, b_bad, c_good"):
        chapters.chapters("good,mamba")


def test_a_failing_chapter_is_named_and_does_not_stop_the_others(chapters):
    before = {path.name: path.read_bytes() for path in chapters.chapters()}
    arguments = ["--root", str(chapters.root), "execute", "--write-back"]
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 1
    told = result.output
    assert "b_bad failed in cell 4" in told
    assert "  | numerator / denominator" in told
    assert "ZeroDivisionError" in told
    for row in ("a_good", "c_good"):
        assert any(line.startswith(row) and line.endswith("ok") for line in told.splitlines())
    assert any(line.startswith("b_bad") and line.endswith("FAILED") for line in told.splitlines())

    executed = chapters.executed("book")
    assert not (executed / "b_bad.ipynb").exists()
    assert (executed / "b_bad.failed.ipynb").exists()
    after = {path.name: path.read_bytes() for path in chapters.chapters()}
    assert after["b_bad.ipynb"] == before["b_bad.ipynb"], "a failed chapter was written back"

    written = notebook.read(chapters.notebooks / "a_good.ipynb")
    assert written.cells[-1].outputs[0].text == "notebooks book\n"
    assert notebook.incomplete(written) == []
    assert freshness.check(chapters.notebooks / "a_good.ipynb", chapters.root) == []
    assert len(written.cells) == 4, "the injected cell of parameters stayed"


def test_other_profiles_leave_committed_outputs_alone(chapters):
    before = (chapters.notebooks / "a_good.ipynb").read_bytes()
    smoke = {"profile": "smoke"}
    outcomes = execute.execute(chapters, chapters.chapters("a_good"), smoke, write_back=True)
    assert [outcome.failure for outcome in outcomes] == [None]
    assert (chapters.notebooks / "a_good.ipynb").read_bytes() == before
    ran = notebook.read(chapters.executed("smoke") / "a_good.ipynb")
    assert ran.cells[-1].outputs[0].text == "notebooks smoke\n"
    assert ran.metadata.ntlib.profile == "smoke"


def test_a_kernel_installed_for_the_user_is_not_taken(checkout, monkeypatch, tmp_path):
    """Chapters run in the interpreter that runs the tests, with the packages it has."""
    wrong = tmp_path / "data" / "kernels" / "python3"
    wrong.mkdir(parents=True)
    spec = {"argv": ["no-such-python"], "display_name": "Wrong", "language": "python"}
    (wrong / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    chapter = make_notebook("import sys\nprint(sys.prefix)")
    notebook.write(chapter, checkout.notebooks / "one.ipynb")
    (outcome,) = execute.execute(checkout, checkout.chapters(), BOOK)
    assert outcome.failure is None
    ran = notebook.read(checkout.executed("book") / "one.ipynb")
    assert ran.cells[-1].outputs[0].text.strip() == sys.prefix


def test_leaving_a_chapter_early_is_a_failure(checkout):
    notebook.write(
        make_notebook("raise SystemExit(0)", "print('never')"), checkout.notebooks / "one.ipynb"
    )
    (outcome,) = execute.execute(checkout, checkout.chapters(), BOOK)
    assert outcome.failure
    assert "SystemExit" in outcome.failure
