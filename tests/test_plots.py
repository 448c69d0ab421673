"""Figures: colours that everybody can tell apart, SVG that fits into any page."""

import base64
import io
import itertools
import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ntlib import plots

pytestmark = pytest.mark.usefixtures("clean_matplotlib")

LIGHT, DARK = "#ffffff", "#14181e"
FAMILIES = {
    "Transformer": [
        "Transformer",
        "Transformer (no positions)",
        "Local attention",
        "Strided attention",
    ],
    "linear attention": ["Linear attention", "GLA", "DeltaNet", "Gated DeltaNet"],
    "RetNet": ["RetNet"],
    "RWKV": ["RWKV-4", "RWKV-5", "RWKV-6", "RWKV-7"],
    "S4": ["S4", "S4D", "DSS", "S5", "H3"],
    "Mamba": ["Mamba", "Mamba-2", "Mamba-3"],
    "Mega": ["Mega", "Mega-chunk", "Mega-chunk (no EMA)", "Mega-chunk (S4D)", "Megalodon"],
    "Yan": ["Yan"],
    "LSTM": ["LSTM"],
    "Hybrid": ["Hybrid"],
}
LEADERS = [{"RWKV": "RWKV-7"}.get(family, members[0]) for family, members in FAMILIES.items()]
# Machado, Oliveira, Fernandes 2009: how linear RGB looks without one kind of cone.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear_rgb(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2 contrast ratio."""
    weights = [0.2126, 0.7152, 0.0722]
    dark, light = sorted(linear_rgb(colour) @ weights for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def cielab(rgb):
    to_xyz = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    xyz = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def show(monkeypatch, fig, **arguments):
    shown = []
    monkeypatch.setattr(plots, "display", lambda bundle, raw: shown.append(bundle))
    defaults = {"name": "some-name", "caption": "What to see.", "alt": "What is drawn."}
    plots.show(fig, **(defaults | arguments))
    (bundle,) = shown
    return bundle


@pytest.fixture
def fig():
    fig, ax = plots.figure()
    ax.plot([0, 1], [0, 1], label="RetNet", **plots.LINES["RetNet"])
    ax.text(0.5, 0.5, "a word")
    ax.legend()
    return fig


@pytest.mark.parametrize("name", plots.COLOURS)
def test_colours_stand_out_on_both_pages(name):
    assert contrast(plots.COLOURS[name], LIGHT) >= 3
    assert contrast(plots.COLOURS[name], DARK) >= 3


def test_contrast_is_computed_as_wcag_does():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("vision", VISIONS)
def test_families_stay_apart_for_colour_blind_readers(vision):
    seen = {name: cielab(VISIONS[vision] @ linear_rgb(plots.COLOURS[name])) for name in LEADERS}
    closest = min(
        np.linalg.norm(seen[one] - seen[other]) for one, other in itertools.combinations(seen, 2)
    )
    # A difference of 2.3 is just noticeable between patches; lines need several times that.
    assert closest > 15


def test_each_architecture_belongs_to_one_family():
    members = list(itertools.chain(*FAMILIES.values()))
    assert sorted(members) == sorted(plots.COLOURS)


@pytest.mark.parametrize("family", FAMILIES)
def test_members_of_a_family_differ_without_colour(family):
    lines = [plots.LINES[name] for name in FAMILIES[family]]
    looks = [(line["linestyle"], line["marker"]) for line in lines]
    assert len(set(looks)) == len(looks)
    assert len({line["color"] for line in lines}) == len(looks)


def test_line_knows_variants_and_names_unknown_architectures():
    assert plots.line("RetNet (chunkwise)") == plots.LINES["RetNet"] | {
        "label": "RetNet (chunkwise)"
    }
    with pytest.raises(ValueError, match=r"'Retnet' has no colour; known are Transformer, "):
        plots.line("Retnet")


def test_shown_figure_is_one_described_html_element(monkeypatch, fig):
    bundle = show(monkeypatch, fig, alt="a < b & 'c'", caption="1 < 2")
    assert bundle["text/plain"] == "a < b & 'c'"
    root = ElementTree.fromstring(bundle["text/html"])
    assert root.tag == "figure"
    assert root.get("id") == "fig-some-name"
    assert root.get("class") == "nt-figure"
    assert root.get("role") == "group"
    picture = root[0]
    assert picture.get("role") == "img"
    assert picture.get("aria-label") == "a < b & 'c'"
    assert root[1].tag == "figcaption"
    assert root[1].text == "1 < 2"
    assert not plt.fignum_exists(fig.number)


def test_text_and_axes_take_the_colour_of_the_page(monkeypatch, fig):
    markup = show(monkeypatch, fig)["text/html"]
    assert 'fill="currentColor"' in markup
    assert "currentColor" in markup
    for colour in ("#000000", "#ffffff", "white", "black"):
        assert colour not in markup
    assert plots.COLOURS["RetNet"] in markup


def test_ids_are_unique_across_figures_and_resolve(monkeypatch):
    pages = []
    for name in ("one", "two"):
        fig, ax = plots.figure()
        ax.plot([0, 1], [0, 1], "o-")
        ax.imshow(np.eye(3))
        pages.append(show(monkeypatch, fig, name=name)["text/html"])
    ids = [re.findall(r'\bid="([^"]*)"', page) for page in pages]
    assert set(ids[0]).isdisjoint(ids[1])
    for page, own in zip(pages, ids, strict=True):
        assert len(set(own)) == len(own)
        used = re.findall(r'href="#([^"]*)"', page) + re.findall(r"url\(#([^)]*)\)", page)
        assert used
        assert set(used) <= set(own)


def test_style_rules_stay_inside_the_figure(monkeypatch, fig):
    markup = show(monkeypatch, fig)["text/html"]
    assert re.findall(r"<style[^>]*>([^{]*)\{", markup) == ["#fig-some-name svg *"]


def test_output_is_deterministic(monkeypatch):
    def draw():
        fig, ax = plots.figure(columns=2)
        ax[0].plot([0, 1], [0, 1], "o-")
        return show(monkeypatch, fig)["text/html"]

    assert draw() == draw()


def test_data_is_offered_as_csv(monkeypatch, fig):
    frame = pd.DataFrame({"length": [1, 2], "ms": [0.5, 0.25]})
    link = ElementTree.fromstring(show(monkeypatch, fig, data=frame)["text/html"]).find(".//a")
    assert link.get("download") == "some-name.csv"
    kind, _, content = link.get("href").partition("base64,")
    assert kind == "data:text/csv;"
    offered = pd.read_csv(io.BytesIO(base64.b64decode(content)))
    pd.testing.assert_frame_equal(offered, frame)


def test_offered_data_have_six_digits(monkeypatch, fig):
    frame = pd.DataFrame({"length": [12345678, 2], "ms": [1 / 3, 2e-9 / 3]})
    content = re.search(r'base64,([^"]*)"', show(monkeypatch, fig, data=frame)["text/html"])[1]
    table = base64.b64decode(content).decode()
    assert table == "length,ms\n12345678,0.333333\n2,6.66667e-10\n"


def test_text_is_legible_on_a_phone(monkeypatch, fig):
    smallest = min(text.get_fontsize() for text in fig.findobj(mpl.text.Text) if text.get_text())
    width_in_points = fig.get_figwidth() * 72
    assert smallest >= 11
    # 390 pixels less the page's margins.
    assert smallest * 358 / width_in_points > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"caption": " "}, "caption of figure 'some-name' is empty"),
        ({"alt": ""}, "alt of figure 'some-name' is empty"),
        ({"name": "Some Name"}, "name must be lower-case letters"),
    ],
)
def test_show_refuses(monkeypatch, fig, arguments, message):
    with pytest.raises(ValueError, match=message):
        show(monkeypatch, fig, **arguments)


def test_figure_refuses_three_columns():
    with pytest.raises(ValueError, match="columns must be 1 or 2"):
        plots.figure(columns=3)


def test_curves_draw_mean_and_range(fig):
    rows = [
        {"architecture": name, "step": step, "seed": seed, "loss": step + seed + offset}
        for offset, name in enumerate(["RetNet", "Mamba"])
        for step in (1, 2, 3)
        for seed in (0, 1, 2)
    ]
    ax = plots.figure()[1]
    plots.curves(ax, pd.DataFrame(rows), "step", "loss")
    assert [line.get_label() for line in ax.lines] == ["RetNet", "Mamba"]
    assert ax.lines[0].get_ydata().tolist() == [2, 3, 4]
    assert ax.lines[1].get_color() == plots.COLOURS["Mamba"]
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (1, 5)
    with pytest.raises(ValueError, match="frame has no column 'acc'"):
        plots.curves(ax, pd.DataFrame(rows), "step", "acc")


def test_curves_of_one_seed_have_no_band():
    frame = pd.DataFrame({"architecture": "RetNet", "step": [1, 2], "loss": [2.0, 1.0]})
    ax = plots.figure()[1]
    plots.curves(ax, frame, "step", "loss", markers=False)
    assert not ax.collections
    assert ax.lines[0].get_marker() == ""


def test_recorded_rows_look_unlike_live_ones():
    frame = pd.DataFrame({"architecture": "RetNet", "step": [1, 2], "loss": [2.0, 1.0]})
    ax = plots.figure()[1]
    plots.curves(ax, frame, "step", "loss")
    plots.curves(ax, frame, "step", "loss", recorded=True)
    live, recorded = ax.lines
    assert recorded.get_label() == "RetNet, recorded"
    assert recorded.get_color() == live.get_color()
    assert recorded.get_markerfacecolor() == "none"
    assert recorded.get_linewidth() < live.get_linewidth()


def test_length_axis_counts_in_binary():
    fig, ax = plots.figure()
    ax.plot([256, 1 << 20], [1, 2])
    plots.length_axis(ax)
    fig.canvas.draw()
    labels = {label.get_text() for label in ax.get_xticklabels()}
    assert {"512", "1k", "64k", "1M"} & labels
    assert not any("10^" in label for label in labels)
    assert ax.get_xlabel() == "Sequence length"


def test_style_ends_with_its_block():
    before = mpl.rcParams["axes.spines.top"]
    with plots.style():
        assert not mpl.rcParams["axes.spines.top"]
    assert mpl.rcParams["axes.spines.top"] == before
