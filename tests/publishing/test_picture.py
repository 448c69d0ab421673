"""The README's pictures are figures of committed chapters."""

import re
from pathlib import Path

import pytest

from ntlib.publishing.picture import picture

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_shows_what_the_chapters_measured():
    pattern = r"!\[[^\]]+\]\((book/_static/([a-z-]+)\.svg)\)"
    shown = dict(re.findall(pattern, (ROOT / "README.md").read_text()))
    assert shown, "README.md shows no picture from book/_static with a description"
    made = re.findall(r"picture (\w+) ([a-z-]+) (\S+)", (ROOT / "Makefile").read_text())
    assert shown == {path: name for _, name, path in made}, "README.md and `make notebooks` differ"
    for chapter, name, path in made:
        assert (ROOT / path).read_text() == picture(ROOT / f"notebooks/{chapter}.ipynb", name), (
            f"{path} is older than the chapter: run `make notebooks`"
        )


def test_an_unknown_figure_is_named():
    with pytest.raises(
        ValueError, match=r"has no figure 'nothing'; its figures are: .*retnet-headline"
    ):
        picture(ROOT / "notebooks/02_retnet.ipynb", "nothing")
