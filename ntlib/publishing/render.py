"""Renders the book: a fresh copy of the sources, not one warning, then a rename."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click

from ntlib import claims
from ntlib.publishing import notebook
from ntlib.publishing.layout import Layout
from ntlib.publishing.picture import figure

SUMMARY_MARKER = "<!-- claims-summary -->"
FIGURE_MARKER = re.compile(r"<!-- figure (\S+) (\S+) -->")  # of a chapter, by name
# Warnings as jupyter-book prints them; its return code alone has been green with one inside.
COMPLAINT = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|\bTraceback\b|\bException\b")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def render(layout: Layout, chapters: Path) -> Path:
    """Builds `_build/html` with the executed notebooks in `chapters`; returns its index page.

    The site that was there stays until the new one is complete. Raises click.ClickException naming
    the document or the notebook's cell that stands in the way.
    """
    source = stage(layout, chapters)
    build = layout.build / "site"
    # With doctrees from an earlier build, jupyter-book has reported success over a failed notebook.
    shutil.rmtree(build, ignore_errors=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    command += [str(source), "--path-output", str(build), "-W", "-n", "--keep-going"]
    run = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False
    )
    log = ANSI.sub("", run.stdout)
    (layout.build / "render.log").write_text(log, encoding="utf-8")
    complaints = [line for line in log.splitlines() if COMPLAINT.search(line)]
    if run.returncode or complaints:
        told = "\n".join(complaints) or log[-3000:]
        raise click.ClickException(f"the book does not build without a warning:\n{told}")
    _require_pages(layout, build / "_build" / "html")
    return _publish(build / "_build" / "html", layout.build / "html") / "index.html"


def stage(layout: Layout, chapters: Path) -> Path:
    """Copies what the book is made of to `_build/source` and fills in what chapters measured."""
    source = layout.build / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(layout.root / name, source)
    for name in ("book", "vendor"):
        if (layout.root / name).is_dir():
            shutil.copytree(layout.root / name, source / name)
    (source / "notebooks").mkdir()
    documents = layout.toc_documents()
    staged = [chapters / Path(name + ".ipynb").name for name in documents if "notebooks/" in name]
    staged = [path for path in staged if path.is_file()]
    for path in staged:
        shutil.copy(path, source / "notebooks")
    _fill_in_claims(source, staged)
    _require_sources(source, documents, chapters)
    _require_complete(staged)
    _fill_in_figures(source)
    return source


def _fill_in_claims(source: Path, staged: list[Path]) -> None:
    collected = claims.collect(staged)
    (source / "book").mkdir(exist_ok=True)
    (source / "book" / "claims.md").write_text(claims.ledger_page(collected), encoding="utf-8")
    for page in (source / "book").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if SUMMARY_MARKER in text:
            found = claims.summary_table(collected)
            page.write_text(text.replace(SUMMARY_MARKER, found), encoding="utf-8")


def _fill_in_figures(source: Path) -> None:
    for page in (source / "book").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        try:
            filled = FIGURE_MARKER.sub(lambda found: _raw_figure(source, *found.groups()), text)
        except (ValueError, FileNotFoundError) as fault:
            raise click.ClickException(f"book/{page.name} lacks a figure: {fault}") from None
        if filled != text:
            page.write_text(filled, encoding="utf-8")


def _raw_figure(source: Path, chapter: str, name: str) -> str:
    return f"```{{raw}} html\n{figure(source / 'notebooks' / f'{chapter}.ipynb', name)}\n```"


def _require_sources(source: Path, documents: list[str], chapters: Path) -> None:
    def found(name: str) -> bool:
        return any((source / (name + suffix)).is_file() for suffix in (".md", ".ipynb", ".rst"))

    missing = [name for name in documents if not found(name)]
    if missing:
        listed = "\n".join(f"  {name}" for name in missing)
        raise click.ClickException(
            f"_toc.yml names documents that do not exist (notebooks are sought in {chapters}):\n"
            f"{listed}"
        )


def _require_complete(staged: list[Path]) -> None:
    """A page must not show a traceback, nor code without its result."""
    faults = [
        f"  {path.stem}: {fault}"
        for path in staged
        for fault in notebook.incomplete(notebook.read(path))
    ]
    if faults:
        raise click.ClickException("notebooks are not ready to be rendered:\n" + "\n".join(faults))


def _require_pages(layout: Layout, html: Path) -> None:
    missing = [name for name in layout.toc_documents() if not (html / f"{name}.html").is_file()]
    if missing:
        raise click.ClickException(f"jupyter-book wrote no page for {', '.join(missing)}")


def _publish(built: Path, site: Path) -> Path:
    """Swaps directories by renaming; whoever reads the site sees the old one or the new one."""
    former = site.with_name("html.former")
    shutil.rmtree(former, ignore_errors=True)
    if site.exists():
        os.rename(site, former)
    os.rename(built, site)
    shutil.rmtree(former, ignore_errors=True)
    return site
