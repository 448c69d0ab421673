"""Figures that move: one drawing of which a few lines change, played when the reader asks for it.

The page needs no kernel and no network: the drawing is the SVG of `plots`, the frames are the
coordinates of the lines, and a script of a few lines exchanges them. Before the reader touches
anything, on paper and where scripts are off, the last frame is seen.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ntlib import plots

_SCRIPT = """
(() => {
  const figure = document.getElementById("fig-%(name)s");
  const frames = %(frames)s, labels = %(labels)s, last = labels.length - 1;
  const paths = frames[0].map((_, k) => figure.querySelector(`[id="%(name)s-moving-${k}"] path`));
  const [button] = figure.getElementsByTagName("button");
  const [slider] = figure.getElementsByTagName("input");
  const [told] = figure.getElementsByTagName("output");
  let timer = null;
  const see = n => {
    slider.value = n;
    told.textContent = labels[n];
    slider.setAttribute("aria-valuetext", labels[n]);
    paths.forEach((path, k) => path.setAttribute("d", frames[n][k]));
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "\\u25b6 Play"; };
  const play = () => {
    if (+slider.value === last) see(0);
    button.textContent = "\\u23f8 Pause";
    timer = setInterval(() => {
      see(+slider.value + 1);
      if (+slider.value === last) stop();
    }, %(milliseconds)d);
  };
  button.onclick = () => (timer === null ? play() : stop());
  slider.oninput = () => { stop(); see(+slider.value); };
  see(last);
  figure.querySelector(".nt-controls").hidden = false;
})();
"""


def show(
    fig: Figure,
    lines: Sequence[Line2D],
    draw: Callable[[int], None],
    labels: Sequence[str],
    *,
    name: str,
    caption: str,
    alt: str,
    data: pd.DataFrame | None = None,
    seconds: float = 0.25,
) -> None:
    """Display a figure with a button that plays it and a slider, and close it.

    lines: what changes; lines without markers. All else, limits of axes included, stays.
    draw: called with the number of a frame, gives the lines their data of that frame.
    labels: per frame, what is said beside the slider: text inside the drawing cannot change.
    seconds: from frame to frame. name, caption, alt, data: see `plots.show`.

    Raises ValueError for fewer than two frames, lines with markers, and a line that the last frame
    does not draw.
    """
    if len(labels) < 2:
        raise ValueError(f"labels must name at least two frames, got {len(labels)}")
    for number, line in enumerate(lines):
        if line.get_marker() not in ("None", "", None):
            raise ValueError(f"line {number} has markers {line.get_marker()!r}; only lines move")
        line.set_gid(f"moving-{number}")
    last = len(labels) - 1
    draw(last)
    fig.canvas.draw()
    fig.set_layout_engine("none")  # the axes stay where they are now
    frames = []
    for number in range(len(labels)):
        draw(number)
        picture = plots.svg(fig, name, alt)
        frames.append([_path(picture, f"{name}-moving-{k}") for k in range(len(lines))])
    if "" in frames[-1]:
        raise ValueError(f"the last frame does not draw line {frames[-1].index('')}")
    plt.close(fig)
    controls = _controls(name, alt, labels, frames, round(1000 * seconds))
    plots.embed(picture + controls, name=name, caption=caption, alt=alt, data=data)


def _path(picture: str, group: str) -> str:
    """Coordinates of the one path of a group, to a tenth of a point; "" if it draws none."""
    found = re.search(rf'<g id="{group}">\s*<path d="([^"]*)"', picture)
    if not found:
        return ""
    rounded = re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.1f}", found[1])
    return " ".join(rounded.split())


def _controls(
    name: str, alt: str, labels: Sequence[str], frames: list[list[str]], milliseconds: int
) -> str:
    """Hidden until the script has found them."""
    last = len(labels) - 1
    script = _SCRIPT % {
        "name": name,
        "frames": json.dumps(frames, separators=(",", ":")),
        "labels": json.dumps(labels).replace("<", "\\u003c"),
        "milliseconds": milliseconds,
    }
    return (
        '\n<div class="nt-controls" hidden="hidden">'
        '<button type="button">Play</button> '
        f'<input type="range" min="0" max="{last}" step="1" value="{last}" '
        f'aria-label="{html.escape(f"Frame of: {alt}")}"/> '
        f'<output aria-live="off">{html.escape(labels[last])}</output></div>'
        f"<script>{script}</script>"
    )
