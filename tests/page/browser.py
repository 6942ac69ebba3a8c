"""A page in a headless Chromium, for the tests of `test_browser.py`."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",  # CI is root
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
WAIT = 60_000  # milliseconds; a busy machine is slow


@contextmanager
def served(*options, folder=None, quiet=True):
    """The address of a page that `otprune page` serves, in a process of its own.

    Args:
        folder: for its uploads.
        quiet: whether it may write nothing to stderr.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    # A page that asks a proxy for anything would fail.
    environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    if folder is not None:
        environment["TMPDIR"] = str(folder)
    command = [sys.executable, "-m", "otprune", "page", "--port", "0", *map(str, options)]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        ) as process,
    ):
        try:
            line = process.stdout.readline()
            found = re.match(r"http://\S+", line)
            yield found[0] if found else pytest.fail(f"no address: {line!r}")
        finally:
            process.terminate()
            process.wait(30)
        said.seek(0)
        errors = said.read()
    assert not quiet or errors == "", errors


class Visitor:
    """One visitor's page, which must ask nobody but its own server, and log no error."""

    def __init__(self, browser, address, **context):
        self._context = browser.new_context(permissions=["camera"], **context)
        self._host = urlsplit(address).netloc
        self.page = self._context.new_page()
        self.page.set_default_timeout(WAIT)
        playwright.expect.set_options(timeout=WAIT)
        self.elsewhere, self.errors, self.asked = [], [], 0
        self.page.on("request", self._request)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self._address = address
        self.open()

    def open(self):
        """The page as it is at first."""
        self.page.goto(self._address)
        self.expect(self.button("Ask")).to_be_visible()

    def _request(self, request):
        self.asked += 1
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != self._host:
            self.elsewhere.append(request.url)

    def _console(self, message):
        if message.type == "error":
            self.errors.append(message.text)

    def expect(self, locator):
        return playwright.expect(locator)

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def label(self, name):
        return self.page.get_by_label(name, exact=True).locator("visible=true")

    def tab(self, name):
        self.page.get_by_role("tab", name=name).click()

    def sample(self, name, question):
        self.label(name).check()
        self.expect(self.label("Question")).to_have_value(question)

    def upload(self, path):
        self.page.locator("input[type=file]").first.set_input_files(str(path))
        self.expect(self.page.locator(".image-frame img").first).to_be_attached()

    def ask(self, question=None):
        if question is not None:
            self.label("Question").fill(question)
        self.button("Ask").click()

    def answers(self, full, pruned):
        self.expect(self.page.get_by_label("Answer with all tokens")).to_have_value(full)
        self.expect(self.page.get_by_label("Answer with the kept tokens")).to_have_value(pruned)

    def finished(self):
        self.expect(self.page.locator(".otp-times")).to_be_visible()

    @property
    def alert(self):
        return self.page.get_by_role("alert").locator("visible=true")

    def close(self):
        self._context.close()
        assert self.asked > 10
        assert self.elsewhere == []
        assert self.errors == []
