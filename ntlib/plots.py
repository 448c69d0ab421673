"""One look for every figure of the book, in light and in dark, on paper and on a phone.

Each architecture keeps its colour, line and marker over the whole book. Colours come from a
search in the luminance band that has a contrast of at least 3:1 on the white and on the dark
page, for ten families that stay apart under protanopia, deuteranopia and tritanopia; members of
a family share the hue and differ in shade, dash and marker. Text and axes take the page's own
text colour.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, NullLocator

_LOOKS = {
    "Transformer": ("#939393", "-", "o"),
    "Transformer (no positions)": ("#868686", "--", "h"),
    "Local attention": ("#7d7d7d", ":", "p"),
    "Strided attention": ("#888888", "-.", "d"),
    "Linear attention": ("#ce8300", "-", "s"),
    "GLA": ("#b87400", "--", "D"),
    "DeltaNet": ("#a66900", "-.", "v"),
    "Gated DeltaNet": ("#8f5a00", ":", "P"),
    "RetNet": ("#1d7eff", "-", "D"),
    "RWKV-4": ("#b04322", ":", "v"),
    "RWKV-5": ("#c04d2a", "-.", "<"),
    "RWKV-6": ("#ce5733", "--", ">"),
    "RWKV-7": ("#dc623e", "-", "^"),
    "S4": ("#2aa76f", "-", "P"),
    "S4D": ("#259663", "--", "X"),
    "DSS": ("#1f8557", ":", "o"),
    "S5": ("#1a744b", "-.", "s"),
    "H3": ("#228d5d", ":", "D"),
    "Mamba": ("#e34dcc", "-", "v"),
    "Mamba-2": ("#c02fab", "--", "^"),
    "Mamba-3": ("#b02b9b", "-.", "D"),
    "Mega": ("#4c688f", "-", "X"),
    "Mega-chunk": ("#567198", "--", "P"),
    "Mega-chunk (no EMA)": ("#617da5", ":", "v"),
    "Mega-chunk (S4D)": ("#5b77a0", (0, (3, 1, 1, 1)), "D"),
    "Megalodon": ("#6b87b0", "-.", "s"),
    "Yan": ("#726811", "-", "p"),
    "LSTM": ("#905840", "--", "h"),
    "Hybrid": ("#7d2bff", "-", "*"),
}

COLOURS: dict[str, str] = {name: colour for name, (colour, _, _) in _LOOKS.items()}
"""Architecture -> colour."""
LINES: dict[str, dict[str, str]] = {
    name: {"color": colour, "linestyle": dash, "marker": marker}
    for name, (colour, dash, marker) in _LOOKS.items()
}
"""Architecture -> keywords of ``Axes.plot``."""

RECORDED = {"linewidth": 1, "markerfacecolor": "none"}
"""What recorded rows look like beside live ones: keywords of ``Axes.plot``."""

# Whatever is drawn in black becomes the page's text colour in the SVG.
_INK = "black"

_RC = {
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.labelsize": 13,
    "legend.fontsize": 12,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "ntlib",
}


@contextmanager
def style() -> Iterator[None]:
    """The book's look for figures made inside a ``with plots.style():`` block."""
    with mpl.rc_context(_RC):
        yield


def figure(columns: int = 1, rows: int = 1, height: float = 4.0) -> tuple[Figure, object]:
    """A figure 7 inches wide and its axes, in the book's look.

    columns, rows: panels; two columns at most stay legible on a phone.
    height: inches per row. Returns what ``plt.subplots`` returns. The look stays on afterwards, so
    that legends and texts added later have the right size.
    """
    if columns not in (1, 2):
        raise ValueError(f"columns must be 1 or 2 to stay legible on a phone, got {columns}")
    mpl.rcParams.update(_RC)
    return plt.subplots(rows, columns, figsize=(7, height * rows), layout="constrained")


def line(architecture: str) -> dict[str, str]:
    """Keywords of ``Axes.plot`` for an architecture: its colour, dash, marker and label.

    A variant in brackets, such as "RetNet (chunkwise)", has its architecture's look, unless it has
    one of its own.
    """
    base = architecture if architecture in LINES else architecture.split(" (")[0]
    if base not in LINES:
        raise ValueError(
            f"architecture {architecture!r} has no colour; known are {', '.join(LINES)}"
        )
    return {**LINES[base], "label": architecture}


def curves(
    ax: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str = "architecture",
    markers: bool = True,
    recorded: bool = False,
) -> None:
    """One line per architecture: the mean of ``y`` at each ``x``, in a band from min to max.

    frame: tidy rows, several per (architecture, x) where several seeds were run.
    by: the column that names the architecture; lines are drawn in order of first appearance.
    markers: off for curves of very many points.
    recorded: these rows stand beside live ones: thin lines, hollow markers, named in the legend.
    """
    for column in (x, y, by):
        if column not in frame.columns:
            raise ValueError(f"frame has no column {column!r}; it has {list(frame.columns)}")
    for architecture, rows in frame.groupby(by, sort=False):
        over_seeds = rows.groupby(x)[y].agg(["mean", "min", "max"])
        look = line(str(architecture)) | ({} if markers else {"marker": ""})
        if recorded:
            look |= RECORDED | {"label": f"{architecture}, recorded"}
        ax.plot(over_seeds.index, over_seeds["mean"], **look)
        if (over_seeds["max"] > over_seeds["min"]).any():
            band = {"color": look["color"], "alpha": 0.2, "linewidth": 0}
            ax.fill_between(over_seeds.index, over_seeds["min"], over_seeds["max"], **band)


def length_axis(ax: Axes, label: str = "Sequence length") -> None:
    """Make x a logarithmic axis of lengths with ticks at powers of two: 256, 512, 1k, 2k ..."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(label)


def show(
    fig: Figure, *, name: str, caption: str, alt: str, data: pd.DataFrame | None = None
) -> None:
    """Display a figure with its caption, its description and its data, and close it.

    name: anchor of the figure on the page, unique within the book: letters, digits and "-".
    caption: what the reader should see in it; shown below.
    alt: what the picture shows, for readers who cannot see it.
    data: the numbers drawn, offered as a CSV file with six digits of each.
    """
    picture = svg(fig, name, alt)
    plt.close(fig)
    embed(picture, name=name, caption=caption, alt=alt, data=data)


def embed(
    markup: str, *, name: str, caption: str, alt: str, data: pd.DataFrame | None = None
) -> None:
    """Display `markup`, a picture and what belongs to it, as a figure; the rest as in `show`."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(f"name must be lower-case letters, digits and '-', got {name!r}")
    for what, text in (("caption", caption), ("alt", alt)):
        if not text.strip():
            raise ValueError(f"{what} of figure {name!r} is empty; say what the figure shows")
    note = html.escape(caption) + ("" if data is None else " " + _download(data, name))
    figure = (
        f'<figure class="nt-figure" id="fig-{name}" role="group" style="margin:1em 0">\n'
        f"{markup}\n<figcaption>{note}</figcaption>\n</figure>"
    )
    display({"text/html": figure, "text/plain": alt}, raw=True)


def svg(fig: Figure, name: str, alt: str) -> str:
    """A figure as inline SVG: the page's text colour, ids that begin with `name`, no fixed size."""
    for legend in fig.findobj(Legend):
        legend.set_frame_on(False)  # its white would be a hole in the dark page
    buffer = io.StringIO()
    with style():
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # without the XML declaration
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r">\s+<", "><", text)
    text = re.sub(r"\s*\n\s*", " ", text)  # notebooks store, and indent, every line by itself
    text = re.sub(r"(fill|stroke): #000000", r"\1: currentColor", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    text = re.sub(r'\b(d|x|y)="[^"]*"', lambda match: _rounded(match[0]), text)
    # matplotlib's rule for "*" would otherwise hold for the whole page.
    text = re.sub(r"<style[^>]*>\*", f'<style type="text/css">#fig-{name} svg *', text)
    return re.sub(r"<svg [^>]*>", lambda _: _head(text, alt), text, count=1)


def _count(value: float) -> str:
    """1024 as 1k, 1048576 as 1M: how lengths are spoken of."""
    for size, unit in ((2**20, "M"), (2**10, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _head(svg: str, alt: str) -> str:
    """The opening tag: as wide as the page allows, but not wider than drawn.

    ``fill`` is for what matplotlib leaves without one because black is SVG's default.
    """
    view_box = re.search(r'viewBox="([^"]*)"', svg)[1]
    width = float(view_box.split()[2]) * 96 / 72
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view_box}" fill="currentColor" role="img" aria-label="{html.escape(alt)}" '
        f'style="width:100%;max-width:{width:.0f}px;height:auto">'
    )


def _rounded(text: str) -> str:
    """Coordinates to a hundredth of a point: a third smaller, and nobody can see it."""
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", text)


def _download(data: pd.DataFrame, name: str) -> str:
    table = data.to_csv(index=False, lineterminator="\n", float_format="%.6g").encode()
    uri = "data:text/csv;base64," + base64.b64encode(table).decode()
    return f'<a class="nt-download" download="{name}.csv" href="{uri}">Data (CSV)</a>'
