"""Each page in a real browser, from disk, without a network, on a desk and on a phone."""

import pytest

PHONE, DESK = 390, 1440
# What sticks out of the page and lies in no box that scrolls, so that it can be found.
STICKING_OUT = """
[...document.querySelectorAll('main *')].filter(e => {
  if (e.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let box = e; box && box !== document.body; box = box.parentElement)
    if (getComputedStyle(box).overflowX !== 'visible') return false;
  return true;
}).slice(0, 5).map(e => e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 60))
"""


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_page_shows_its_mathematics_and_fits(chromium, page, width):
    chromium.open(page, width)
    assert chromium.complaints() == []
    assert [url for url in chromium.requests() if not url.startswith(("file:", "data:"))] == []

    written = chromium.evaluate("document.querySelectorAll('article .math').length")
    shown = chromium.evaluate("document.querySelectorAll('article mjx-container svg').length")
    assert shown >= written
    faulty = "[...document.querySelectorAll('[data-mml-node=merror]')].map(e => e.textContent)"
    assert chromium.evaluate(faulty) == []

    assert chromium.evaluate(STICKING_OUT) == []
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
