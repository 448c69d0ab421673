"""Page tests read the site that `make html` or `make book` left in `_build/html`."""

from pathlib import Path

import pytest

from tests.pages import browser, site


@pytest.fixture(params=site.PAGES)
def page(request) -> Path:
    """Each page of the table of contents."""
    path = site.HTML / request.param
    if not site.HTML.is_dir():
        pytest.skip("the book is not rendered yet: run `make html`")
    return path


@pytest.fixture(scope="session")
def chromium():
    """A headless browser without a network, or a skip where none is installed."""
    binary = browser.find()
    if binary is None:
        pytest.skip(f"no browser on the PATH; one of {', '.join(browser.NAMES)} would do")
    with browser.Browser(binary) as running:
        yield running
