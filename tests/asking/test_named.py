"""Photographs by file, folder, pattern, URL and the standard input."""

import contextlib
import functools
import http.server
import io
import json
import threading

import pytest

from otprune import OTPruneError
from otprune.asking import images, remote
from tests.cli.conftest import QUESTION, QUICK, embedded, run  # noqa: F401
from tests.untrained import scene


@pytest.fixture
def folder(tmp_path):
    """Three images, a text, a hidden image and a folder, named so that 10 comes behind 2."""
    there = tmp_path / "photos"
    (there / "more.png").mkdir(parents=True)
    for name in ("image10.png", "image2.JPG", "moving.gif", ".hidden.png"):
        scene(seed=len(name)).save(there / name)
    (there / "notes.txt").write_text("not an image")
    return there


@pytest.fixture
def served(folder):
    """The address of a server on the loopback that has the folder, and what it was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path == "/moved.png":
                self.send_response(302)
                self.send_header("Location", "/image10.png")
                self.end_headers()
            elif self.path == "/nothing.png":
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *words):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def names(words):
    return [photo.short for photo in images.named(map(str, words))]


def test_a_folder_is_the_images_in_it(folder):
    assert names([folder]) == ["image2.JPG", "image10.png", "moving.gif"]


def test_a_pattern(folder, tmp_path):
    assert names([f"{folder}/image*"]) == ["image2.JPG", "image10.png"]
    assert names([f"{tmp_path}/**/*.gif"]) == ["moving.gif"]
    with pytest.raises(OTPruneError, match=r"no file fits the pattern .*\.tif"):
        images.named([f"{folder}/*.tif"])


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    scene().save(tmp_path / "a[1].png")
    assert names([tmp_path / "a[1].png"]) == ["a[1].png"]


def test_a_folder_without_images(tmp_path):
    with pytest.raises(OTPruneError, match=r"is a folder without images \(.png, "):
        images.named([str(tmp_path)])


def test_a_url_is_fetched_once_and_followed(served):
    address, asked = served
    for name in ("image10.png", "moved.png?size=large"):
        (photo,) = images.named([f"{address}/{name}"])
        assert photo.path is None
        assert photo.short == name.partition("?")[0]
        with contextlib.suppress(OTPruneError):
            photo.open()
    assert asked == ["/image10.png", "/moved.png?size=large"]
    (photo,) = images.named([f"{address}/moved.png"])
    first, second = photo.open().image, photo.open().image
    assert first.tobytes() == second.tobytes()
    assert first.size == (120, 80)
    assert asked[2:] == ["/moved.png", "/image10.png"]


def test_what_is_wrong_with_a_url(served, monkeypatch):
    address, _ = served

    def said(url):
        with pytest.raises(OTPruneError) as caught:
            images.Photo(url).open()
        return str(caught.value)

    assert said(f"{address}/none.png") == f"{address}/none.png: the server says 404 File not found"
    assert said(f"{address}/nothing.png") == f"{address}/nothing.png is empty"
    assert "is not an image that can be read" in said(f"{address}/notes.txt")
    assert "cannot be fetched: " in said("http://127.0.0.1:1/a.png")
    assert "cannot be fetched: " in said("http://[/a.png")
    monkeypatch.setattr(remote, "LARGEST", 100)
    assert "more than 0 MiB" in said(f"{address}/image10.png")


@pytest.mark.usefixtures("embedded")
def test_all_of_them_in_one_command(run, folder, served, monkeypatch):  # noqa: F811
    address, _ = served
    piped = io.BytesIO()
    scene().save(piped, "png")
    stdin = type(
        "Stdin", (), {"isatty": lambda self: False, "buffer": io.BytesIO(piped.getvalue())}
    )
    monkeypatch.setattr("sys.stdin", stdin())
    words = (folder, f"{folder}/*.gif", f"{address}/image10.png", f"{address}/none.png", "-")
    result = run("ask", *words, QUESTION, *QUICK, "--json", "--continue-on-error")
    assert result.status == 2
    entries = json.loads(result.out)["images"]
    assert [entry["image"].rpartition("/")[2] for entry in entries] == [
        *("image2.JPG", "image10.png", "moving.gif", "moving.gif", "image10.png", "none.png", "-")
    ]
    assert ["error" in entry for entry in entries] == [False] * 5 + [True, False]
    assert result.err.count("404") == 1


@pytest.mark.usefixtures("embedded")
def test_a_folder_instead_of_a_question(run, folder):  # noqa: F811
    result = run("ask", folder)
    assert (result.status, result.out) == (2, "")
    assert f"the question is missing after {folder}" in result.err
