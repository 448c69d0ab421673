"""Moving figures: one drawing, exchanged lines, controls that a browser really obeys."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from ntlib import animation, plots
from tests.pages import browser

pytestmark = pytest.mark.usefixtures("clean_matplotlib")

FRAMES = 4


def shown(monkeypatch, marker="", hide_last=False, frames=FRAMES, **arguments):
    """The markup of a figure in which a sine of 1, 2, 3 ... periods moves."""
    bundles = []
    monkeypatch.setattr(plots, "display", lambda bundle, raw: bundles.append(bundle))
    x = np.linspace(0, 1, 50)
    fig, ax = plots.figure()
    ax.plot(x, x)
    (line,) = ax.plot(x, x, marker=marker)
    ax.set_ylim(-1, 1)

    def draw(number):
        y = np.sin(2 * np.pi * (number + 1) * x)
        line.set_ydata(np.full_like(x, np.nan) if hide_last and number == frames - 1 else y)

    labels = [f"{number + 1} periods < 9" for number in range(frames)]
    defaults = {"name": "moving-sine", "caption": "What to see.", "alt": "A sine & a line."}
    animation.show(fig, [line], draw, labels, **(defaults | arguments))
    return bundles[0]


def test_one_drawing_holds_all_frames(monkeypatch):
    bundle = shown(monkeypatch)
    assert bundle["text/plain"] == "A sine & a line."
    markup = bundle["text/html"]
    assert markup.count("<svg") == 1
    frames = json.loads(re.search(r"frames = (\[\[.*?\]\])", markup)[1])
    assert len(frames) == FRAMES
    assert len({frame[0] for frame in frames}) == FRAMES
    assert all(re.fullmatch(r"[ML\d. -]+", frame[0]) for frame in frames)


def test_without_scripts_the_last_frame_is_seen_and_no_dead_button(monkeypatch):
    markup = shown(monkeypatch)["text/html"]
    root = ElementTree.fromstring(re.sub(r"<script>.*?</script>", "", markup, flags=re.DOTALL))
    controls = root.find("div")
    assert controls.get("hidden") is not None
    assert controls.find("output").text == f"{FRAMES} periods < 9"
    drawn = re.search(r'id="moving-sine-moving-0">\s*<path d="([^"]*)"', markup)[1]
    frames = json.loads(re.search(r"frames = (\[\[.*?\]\])", markup)[1])
    corners = [re.findall(r"[\d.]+", path) for path in (drawn, frames[-1][0])]
    assert np.allclose(*(np.array(numbers, dtype=float) for numbers in corners), atol=0.06)


def test_labels_cannot_end_the_script(monkeypatch):
    script = re.search(r"<script>(.*)</script>", shown(monkeypatch)["text/html"], re.DOTALL)[1]
    assert "\\u003c 9" in script
    assert "<" not in re.search(r"labels = (\[.*?\])", script)[1]


def test_output_is_deterministic(monkeypatch):
    assert shown(monkeypatch) == shown(monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 1}, "labels must name at least two frames, got 1"),
        ({"marker": "o"}, "line 0 has markers 'o'; only lines move"),
        ({"hide_last": True}, "the last frame does not draw line 0"),
        ({"alt": " "}, "alt of figure 'moving-sine' is empty"),
    ],
)
def test_show_refuses(monkeypatch, arguments, message):
    with pytest.raises(ValueError, match=message):
        shown(monkeypatch, **arguments)


@pytest.mark.skipif(browser.find() is None, reason="no Chromium on this machine")
def test_a_browser_plays_pauses_and_slides(monkeypatch, tmp_path):
    page = tmp_path / "page.html"
    markup = shown(monkeypatch, seconds=0.02)["text/html"]
    page.write_text(f"<!doctype html><meta charset='utf-8'><title>t</title>{markup}")
    with browser.Browser(browser.find()) as tab:
        tab.open(page, 390)
        assert tab.complaints() == []
        drawn = "document.querySelector('#moving-sine-moving-0 path').getAttribute('d')"
        told = "document.querySelector('output').textContent"
        button = "document.querySelector('button')"
        slider = "document.querySelector('input')"
        assert tab.evaluate(f"{button}.offsetWidth > 0")
        still = tab.evaluate(drawn)

        slid = f"{slider}.value = 0; {slider}.dispatchEvent(new Event('input')); {told}"
        assert tab.evaluate(slid) == "1 periods < 9"
        assert tab.evaluate(drawn) != still
        assert tab.evaluate(f"{button}.click(); {button}.textContent").endswith("Pause")
        assert tab.evaluate(f"{button}.click(); {button}.textContent").endswith("Play")

        at_the_end = f"new Promise(done => setTimeout(() => done({told}), 500))"
        assert tab.evaluate(f"{button}.click(); {at_the_end}") == f"{FRAMES} periods < 9"
        assert tab.evaluate(drawn) == still
        assert tab.evaluate(f"{button}.textContent").endswith("Play")
