"""Rendering: no page from unfinished notebooks, no success over a warning, no half-built site."""

import subprocess
import sys

import click
import nbformat
import pytest

from ntlib.publishing import notebook
from ntlib.publishing.render import render, stage
from tests.publishing.conftest import make_notebook, pretend_executed


def spoil(checkout, chapter):
    notebook.write(chapter, checkout.notebooks / "one.ipynb")


def test_a_book_is_rendered_with_its_claims(checkout):
    index = render(checkout, checkout.notebooks)
    assert index == checkout.root / "_build" / "html" / "index.html"
    for page in ("book/index", "book/claims", "notebooks/one"):
        assert (index.parent / f"{page}.html").is_file()
    assert "claims-summary" not in (index.parent / "book" / "index.html").read_text()


def test_a_failed_notebook_over_an_earlier_good_build_is_refused(checkout):
    render(checkout, checkout.notebooks)
    page = checkout.build / "html" / "notebooks" / "one.html"
    good = page.read_bytes()
    failed = pretend_executed(make_notebook("1 / 0"))
    failed.cells[2].outputs = [
        nbformat.v4.new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])
    ]
    spoil(checkout, failed)
    with pytest.raises(click.ClickException, match="one: cell 3 failed with ZeroDivisionError"):
        render(checkout, checkout.notebooks)
    assert page.read_bytes() == good, "the old site did not survive"


def test_kept_doctrees_do_not_hide_a_warning(checkout):
    """jupyter-book re-reads changed pages only: after a lax build, a strict one succeeds."""
    (checkout.root / "book" / "index.md").write_text("# Small\n\n```{nonsense}\n```\n")
    source, build = stage(checkout, checkout.notebooks), checkout.build / "site"
    lax = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    lax += [str(source), "--path-output", str(build)]
    subprocess.run(lax, check=True, capture_output=True)
    assert subprocess.run([*lax, "-W", "-n"], capture_output=True).returncode == 0, "the trap"
    with pytest.raises(click.ClickException, match="nonsense"):
        render(checkout, checkout.notebooks)
    assert not (checkout.build / "html").exists()


def test_a_cell_that_was_never_executed_is_refused(checkout):
    chapter = pretend_executed(make_notebook("x = 1", "y = 2"))
    chapter.cells[3].execution_count = None
    spoil(checkout, chapter)
    with pytest.raises(click.ClickException, match="one: cell 4 was not executed: y = 2"):
        stage(checkout, checkout.notebooks)


def test_a_missing_document_is_named(checkout):
    (checkout.notebooks / "one.ipynb").unlink()
    with pytest.raises(click.ClickException, match=r"notebooks/one\b"):
        stage(checkout, checkout.notebooks)


def with_figure(checkout, marker):
    """A chapter that shows the figure "ups", and a page with `marker`."""
    chapter = pretend_executed(make_notebook("show()"))
    shown = '<figure class="nt-figure" id="fig-ups">\n<svg></svg>\n</figure>'
    chapter.cells[2].outputs = [nbformat.v4.new_output("display_data", data={"text/html": shown})]
    spoil(checkout, chapter)
    (checkout.root / "book" / "index.md").write_text(f"# Small\n\n{marker}\n")
    return shown


def test_a_page_shows_a_figure_of_a_chapter(checkout):
    shown = with_figure(checkout, "<!-- figure one ups -->")
    page = (stage(checkout, checkout.notebooks) / "book" / "index.md").read_text()
    assert page == f"# Small\n\n```{{raw}} html\n{shown}\n```\n"


@pytest.mark.parametrize("marker", ["<!-- figure one downs -->", "<!-- figure two ups -->"])
def test_a_page_with_a_figure_that_no_chapter_has_is_refused(checkout, marker):
    with_figure(checkout, marker)
    with pytest.raises(click.ClickException, match=r"index\.md lacks a figure: .*(downs|two)"):
        stage(checkout, checkout.notebooks)
