"""Every kind of image becomes RGB, the right way up; the others get one clear line."""

import io
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from otprune import OTPruneError
from otprune.asking import images
from otprune.asking.images import Photo
from tests.untrained import scene

RED = (255, 0, 0)


def open_image(path):
    return Photo(str(path)).open().image


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "PA", "1", "CMYK", "YCbCr", "LAB"])
def test_modes(tmp_path, mode):
    path = tmp_path / "image.tif"
    image = Image.new("RGB", (8, 6), (200, 200, 200)).convert("L" if mode == "PA" else "RGB")
    image.convert(mode).save(path)
    if mode == "YCbCr" and features.version("pil").startswith("12."):
        pytest.skip("Pillow 12.3 does not read its own TIFFs of this mode; 13.0 does")
    read = open_image(path)
    assert (read.mode, read.size) == ("RGB", (8, 6))
    assert np.asarray(read).mean() == pytest.approx(255 if mode == "1" else 200, abs=60)


def test_sixteen_bits_keep_their_shades(tmp_path):
    path = tmp_path / "deep.png"
    shades = np.array([[0, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(shades).save(path)
    assert np.asarray(open_image(path))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(("top", "expected"), [(1.0, 255), (255.0, 255), (4000.0, 255)])
def test_floating_images(tmp_path, top, expected):
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([[0.0, top / 2, top, np.nan]], dtype=np.float32)).save(path)
    assert np.asarray(open_image(path))[0, :, 1].tolist() == [0, 128, expected, 0]


def test_transparency_lies_on_white(tmp_path):
    path = tmp_path / "clear.png"
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(path)
    read = open_image(path)
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [RED, (255, 255, 255)]


def test_exif_orientation(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: rows go down from the right
    scene(120, 80).save(path, exif=exif)
    assert open_image(path).size == (80, 120)


def test_first_frame_of_an_animation(tmp_path):
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert open_image(path).getpixel((0, 0)) == RED


@pytest.mark.parametrize(("kind", "word"), [("tif", "page"), ("gif", "frame"), ("webp", "frame")])
def test_of_several_images_the_first_is_read_and_said_to_be(tmp_path, kind, word):
    path, alone = tmp_path / f"many.{kind}", tmp_path / f"one.{kind}"
    images = [Image.new("RGB", (4, 4), (60 * i, 0, 0)) for i in range(3)]
    images[0].save(path, save_all=True, append_images=images[1:])
    images[0].save(alone)
    assert Photo(str(path)).open().note == f"{word} 1 of 3"
    assert Photo(str(alone)).open().note == ""


def test_a_damaged_rest_does_not_matter(tmp_path):
    path = tmp_path / "moving.gif"
    frames = [scene(seed=seed) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    path.write_bytes(path.read_bytes()[:-500])
    assert open_image(path).size == frames[0].size


def test_the_standard_input(tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (5, 4), RED).save(file, "png")

    def piped(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    piped(file.getvalue())
    one, path, other = images.named(["-", "a.png", "-"])
    assert one == other  # read once
    assert (one.label, one.short, one.path) == ("standard input", "standard input", None)
    assert str(path.path) == "a.png"
    assert one.open().image.getpixel((0, 0)) == RED
    piped(b"")
    with pytest.raises(OTPruneError, match="- is the standard input, and it is empty"):
        images.named(["-"])
    piped(b"no image")
    with pytest.raises(OTPruneError, match="standard input is not an image that can be read"):
        images.named(["-"])[0].open()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "pip install pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "pip install pillow-heif"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "pip install pillow-jxl-plugin"),
        (b"%PDF-1.7\n", "is a PDF: turn the page into a PNG"),
        (b'<?xml version="1.0"?><svg/>', "is a drawing"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "is a video"),
        (b"\x1aE\xdf\xa3\0\0\0\0", "is a video"),
    ],
)
def test_what_pillow_alone_cannot_read_is_told_what_helps(tmp_path, monkeypatch, head, said):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    path = tmp_path / "IMG_0001.jpg"  # the name does not matter
    path.write_bytes(head + b"\0" * 64)
    with pytest.raises(OTPruneError, match=f"IMG_0001.jpg .*{re.escape(said)}"):
        open_image(path)


def test_a_plugin_that_is_installed_is_used(tmp_path, monkeypatch):
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 64)

    class Plugin(ImageFile.ImageFile):
        format = "FAKE"

        def _open(self):
            self._size, self._mode = (3, 2), "RGB"

        def load(self):
            self.im = Image.new("RGB", (3, 2), RED).im

    def register():
        Image.register_open("FAKE", Plugin, lambda head: head[4:12] == b"ftypheic")

    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setitem(
        sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register)
    )
    assert open_image(path).size == (3, 2)


def test_one_pixel(tmp_path):
    path = tmp_path / "one.png"
    Image.new("RGB", (1, 1), RED).save(path)
    assert open_image(path).size == (1, 1)


@pytest.mark.parametrize("keep", [0, 1, 30, 200], ids=lambda n: f"{n}bytes")
@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "tif", "webp"])
def test_damaged(tmp_path, kind, keep):
    whole, path = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
    scene().save(whole)
    path.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(OTPruneError, match=f"cut.{kind}"):
        open_image(path)


def test_no_image_at_all(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("hello")
    with pytest.raises(OTPruneError, match="not an image that can be read"):
        open_image(text)
    with pytest.raises(OTPruneError, match="is a folder"):
        open_image(tmp_path)
    for missing in (tmp_path / "missing.png", tmp_path / ("x" * 300)):
        with pytest.raises(OTPruneError, match="no such image"):
            open_image(missing)


def test_too_large(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("1", (300, 200)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29_999)
    with pytest.raises(OTPruneError, match=r"60,000 pixels, more than the 59,998"):
        open_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    assert open_image(path).size == (300, 200)
