"""Figures of chapters where the chapter is not: on other pages of the book and in the README."""

import json
import re
from pathlib import Path

PAPER, INK = "#ffffff", "#1f2328"


def figure(notebook: Path, name: str) -> str:
    """The figure `name` (see ntlib.plots.show) of an executed notebook as it stands on its page:
    picture, caption and data.

    Raises ValueError that lists the notebook's figures where there is none of that name.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    pattern = r'<figure[^>]*id="fig-([^"]*)".*</figure>'
    found = [match for page in pages if (match := re.search(pattern, page, re.DOTALL))]
    figures = {match[1]: match[0] for match in found}
    if name not in figures:
        known = ", ".join(figures) or "none"
        raise ValueError(f"{notebook.name} has no figure {name!r}; its figures are: {known}")
    return figures[name]


def picture(notebook: Path, name: str) -> str:
    """The picture of `figure` alone, as an SVG document that needs no page around it."""
    svg = re.search(r"<svg.*</svg>", figure(notebook, name), re.DOTALL)[0]
    opening, rest = re.match(r"(<svg[^>]*>)(.*)", svg, re.DOTALL).groups()
    opening = opening.replace("<svg ", f'<svg color="{INK}" ', 1)
    return f'{opening}<rect width="100%" height="100%" fill="{PAPER}"/>{rest}\n'
