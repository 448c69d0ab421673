"""The README's picture is a figure of a committed chapter."""

import re
from pathlib import Path

import pytest

from ntlib.publishing.picture import picture

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_shows_what_the_chapter_measured():
    shown = re.search(
        r"!\[[^\]]+\]\((book/_static/([a-z-]+)\.svg)\)", (ROOT / "README.md").read_text()
    )
    assert shown, "README.md shows no picture from book/_static with a description"
    assert (ROOT / shown[1]).read_text() == picture(ROOT / "notebooks/02_retnet.ipynb", shown[2]), (
        "the picture is older than the chapter: run `make notebooks`"
    )


def test_an_unknown_figure_is_named():
    with pytest.raises(
        ValueError, match=r"has no figure 'nothing'; its figures are: .*retnet-headline"
    ):
        picture(ROOT / "notebooks/02_retnet.ipynb", "nothing")
