"""The rendered book as the tests see it: parsed pages, and where a link leads."""

from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag

from bs4 import BeautifulSoup

from ntlib.publishing.layout import Layout

LAYOUT = Layout(Path(__file__).resolve().parents[2])
HTML = LAYOUT.build / "html"
PAGES = [f"{name}.html" for name in LAYOUT.toc_documents()]


@cache
def soup(page: Path) -> BeautifulSoup:
    """The parsed page."""
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(page: Path) -> set[str]:
    """Everything on a page that a link can lead to."""
    marked = soup(page).find_all(lambda tag: tag.get("id") or (tag.name == "a" and tag.get("name")))
    return {tag.get("id") or tag.get("name") for tag in marked}


def is_external(url: str) -> bool:
    """Does the address leave the book's folder?"""
    return url.startswith(("http:", "https:", "//", "ftp:"))


def broken(page: Path, href: str) -> str | None:
    """Why an internal link leads nowhere, or None."""
    target, anchor = urldefrag(href)
    file = (page.parent / unquote(target)).resolve() if target else page
    if not file.is_file():
        return f"{href}: no such file"
    if anchor and file.suffix == ".html" and unquote(anchor) not in anchors(file):
        return f"{href}: no such place on the page"
    return None
