"""The built site: whole, found by its search, and without anything from the network."""

import json
import re
from html.parser import HTMLParser

import pytest

import otprune

from .pages import ROOT

pytestmark = pytest.mark.docs

SITE = ROOT / "site"


class Loads(HTMLParser):
    """What a browser fetches by itself to show a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "link" and given.get("rel") in ("stylesheet", "preconnect", "preload", "icon"):
            self.found.append(given["href"])
        elif tag in ("script", "img", "iframe", "source", "video") and given.get("src"):
            self.found.append(given["src"])


def test_nothing_is_loaded_from_elsewhere():
    """Scripts, styles, fonts and pictures are files of the site."""
    pages = list(SITE.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert len(loads.found) > 3
        for address in loads.found:
            assert re.match(r"(https?:)?//", address) is None, f"{page.name}: {address}"
            if not address.startswith("data:"):
                there = (SITE if address.startswith("/") else page.parent) / address.lstrip("/")
                assert there.is_file(), f"{page.name}: {address}"
    for style in SITE.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text()), style.name


def test_the_search_knows_the_pages():
    """Also from a folder: there the index is a script."""
    index = json.loads((SITE / "search/search_index.json").read_text())
    titles = {item["title"].partition("<")[0].strip() for item in index["docs"]}
    assert {"Quick start in five minutes", "Troubleshooting", "TransportPrune"} <= titles
    assert (SITE / "search/search_index.js").read_text().startswith("var __index = ")
    places = {item["location"].partition("#")[0] for item in index["docs"]}
    assert {"reference/selectors.html", "vllm.html", "results/quality/report.html"} <= places


def test_the_reference_has_every_public_name():
    pages = "".join(page.read_text() for page in (SITE / "reference").glob("*.html"))
    shown = set(re.findall(r'id="otprune\.(\w+)"', pages))
    assert set(otprune.__all__) - {"__version__", "frames"} <= shown
    assert 'id="otprune.reading.frames.frames"' in pages
    assert "otprune.__version__" in pages


def test_the_reference_has_their_docstrings():
    """Of classes too: a sentence from the middle of each kind of page."""
    for page, words in {
        "models": "The prompt is shortened before the model sees it",
        "selectors": "The first pick is the best single token",
        "streams": "frames",
        "measures": "nuclear norm",
        "errors": "refuses rather than prune wrongly",
    }.items():
        assert words in (SITE / f"reference/{page}.html").read_text(), page
