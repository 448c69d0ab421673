"""Each rendered page, read as HTML: complete without a network, accessible, no dead link inside."""

import re
from collections import Counter

from ntlib.publishing.render import FIGURE_MARKER, SUMMARY_MARKER
from tests.pages import site

FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
HASH_NAME = re.compile(r"(.*/)?[0-9a-f]{16,}\.\w+|\W*")


def article(page):
    return site.soup(page).find("article")


def test_nothing_is_fetched_from_elsewhere(page):
    soup = site.soup(page)
    fetched = [tag.get(FETCHED[tag.name], "") for tag in soup.find_all(list(FETCHED))]
    for link in soup.find_all("link"):
        if {"stylesheet", "preload", "icon", "preconnect", "modulepreload"} & set(link["rel"]):
            fetched.append(link["href"])
    assert [url for url in fetched if site.is_external(url)] == []


def test_style_sheets_fetch_nothing_from_elsewhere():
    for path in site.HTML.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", text), path.name


def test_mathematics_comes_from_one_vendored_script(page):
    sources = [tag["src"] for tag in site.soup(page).find_all("script", src=True)]
    ours = [src for src in sources if "mathjax" in src.lower()]
    assert len(ours) <= 1
    assert len(ours) == 1 or not article(page).select(".math")
    for src in ours:
        assert site.broken(page, src.split("?")[0]) is None


def test_one_main_heading_and_a_language(page):
    soup = site.soup(page)
    assert soup.html["lang"] == "en"
    printed = soup.find(id="jb-print-docs-body")
    headings = [h1 for h1 in soup.find_all("h1") if printed is None or printed not in h1.parents]
    assert len(headings) == 1


def test_pictures_say_what_they_show(page):
    for picture in site.soup(page).find_all("img"):
        assert not HASH_NAME.fullmatch(picture.get("alt", "")), picture
    for figure in article(page).select("figure.nt-figure"):
        described = figure.find(attrs={"aria-label": True}) or figure.find("img", alt=True)
        assert described is not None, figure.get("id")
        assert described.get("aria-label", described.get("alt", "")).strip()
        assert figure.figcaption.get_text(strip=True)


def test_links_inside_the_book_lead_somewhere(page):
    hrefs = [link["href"] for link in site.soup(page).find_all("a", href=True)]
    own = {href for href in hrefs if not re.match(r"[a-z]+:|//", href)} - {"", "#"}
    reasons = [site.broken(page, href) for href in sorted(own)]
    assert [reason for reason in reasons if reason] == []


def test_ids_are_unique(page):
    ids = Counter(tag["id"] for tag in article(page).find_all(id=True))
    # sphinx-exercise gives the body of each exercise the same id; nothing links to it.
    theirs = {"exercise-content", "solution-content"}
    assert [name for name, count in ids.items() if count > 1 and name not in theirs] == []


def test_launch_buttons_lead_to_files_of_the_repository(page):
    links = [link["href"] for link in site.soup(page).find_all("a", href=True)]
    launched = [url for url in links if "colab.research.google.com" in url]
    for url in launched:
        assert (site.LAYOUT.root / url.split("/blob/main/")[1]).is_file(), url
    if page.parent.name == "notebooks":
        assert launched


def test_no_marker_is_left_unfilled(page):
    text = page.read_text(encoding="utf-8")
    assert SUMMARY_MARKER not in text
    assert not FIGURE_MARKER.search(text)
