"""The site in a headless Chromium, from a folder and from a server: it asks nobody else."""

import functools
import shutil
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from .pages import ROOT

pytestmark = pytest.mark.page
SITE = ROOT / "site"
WAIT = 20_000  # milliseconds; a busy machine is slow


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "no Chromium: make test-page installs it"
    assert SITE.is_dir(), "no site: make docs builds it"
    with playwright.sync_playwright() as made:
        found = made.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served():
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["folder", "server"])
def address(request):
    return SITE.as_uri() + "/" if request.param == "folder" else request.getfixturevalue("served")


@pytest.fixture
def opened(browser, address):
    """`opened(page, ...)`: a page of the site that must ask for nothing else and log no error."""
    contexts, asked, errors = [], [], []

    def open_page(name, **how):
        contexts.append(browser.new_context(**how))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda x: errors.append(x.text) if x.type == "error" else None)
        page.goto(address + name)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert len(asked) > 3
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("submodular", "How it works"),
        ("torchvision", "Installing"),
    ],
)
def test_the_search_finds_it_and_leads_there(opened, words, found):
    page = opened("index.html")
    page.locator("input[name=query]").press_sequentially(words)
    page.locator(".md-search-result__link", has_text=found).first.click()
    page.wait_for_url(lambda url: "index.html" not in url)
    assert found in page.title()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_color_scheme(opened, scheme):
    page = opened("index.html", color_scheme=scheme)
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(",")[:3])) / 3
    assert (lightness > 200) == (scheme == "light")


@pytest.mark.parametrize("name", ["index.html", "methods.html", "results/quality/report.html"])
def test_a_narrow_screen_scrolls_in_one_direction(opened, name):
    """Wide tables and code scroll by themselves."""
    page = opened(name, viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    broken = "[...document.images].filter(x => x.complete && !x.naturalWidth).length"
    assert page.evaluate(broken) == 0
