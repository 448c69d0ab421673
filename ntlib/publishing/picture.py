"""A figure of a chapter as a picture of its own, for where no page is around it: the README."""

import json
import re
from pathlib import Path

PAPER, INK = "#ffffff", "#1f2328"


def picture(notebook: Path, name: str) -> str:
    """The figure `name` (see ntlib.plots.show) of an executed notebook as an SVG document.

    Raises ValueError that lists the notebook's figures where there is none of that name.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    figures = {
        match[1]: match[2]
        for page in pages
        if (match := re.search(r'<figure[^>]*id="fig-([^"]*)".*?(<svg.*</svg>)', page, re.DOTALL))
    }
    if name not in figures:
        known = ", ".join(figures) or "none"
        raise ValueError(f"{notebook.name} has no figure {name!r}; its figures are: {known}")
    opening, rest = re.match(r"(<svg[^>]*>)(.*)", figures[name], re.DOTALL).groups()
    opening = opening.replace("<svg ", f'<svg color="{INK}" ', 1)
    return f'{opening}<rect width="100%" height="100%" fill="{PAPER}"/>{rest}\n'
