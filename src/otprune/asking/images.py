"""Reading photographs: any format becomes an upright RGB image, or an error of one line."""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from otprune.asking.remote import fetch
from otprune.errors import OTPruneError
from otprune.reading.images import ANIMATED, images_in, images_like, rgb
from otprune.reading.images import SUFFIXES as STILL

STDIN = "-"
SUFFIXES = (*STILL, ".gif")  # what is read in a folder; of a moving image the first frame
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two letters at least: C:/ is a drive


class _Kind(NamedTuple):
    """A kind of file that Pillow alone cannot read, and advice for it."""

    starts: re.Pattern[bytes]
    advice: str
    plugin: str = ""  # a module that adds the format to Pillow when it is imported


_KINDS = (
    _Kind(
        re.compile(rb".{4}ftyp(?:hei|hev|mif1|msf1)", re.S),
        "is a HEIC image, which needs pillow-heif: pip install pillow-heif",
        "pillow_heif",
    ),
    _Kind(re.compile(rb".{4}ftypavi", re.S), "is an AVIF image, which needs Pillow 11.3 or newer"),
    _Kind(
        re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ", re.S),
        "is a JPEG XL image, which needs a plugin: pip install pillow-jxl-plugin",
        "pillow_jxl",
    ),
    _Kind(re.compile(rb"%PDF"), "is a PDF: turn the page into a PNG first"),
    _Kind(re.compile(rb"\s*<(?:\?xml|svg)"), "is a drawing (SVG): turn it into a PNG first"),
    _Kind(re.compile(rb"\s*<(?:!doctype html|html)", re.I), "is a web page, not an image"),
    _Kind(
        re.compile(rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", re.S),
        "is a video: `otprune watch` reads it",
    ),
)


class Opened(NamedTuple):
    """An image. `note` says which of several images in the file it is; else it is empty."""

    image: Image.Image
    note: str


@dataclass(frozen=True)
class Photo:
    """A photograph by its name.

    Attributes:
        name: a path, a URL, or "-" for the standard input.
        piped: the bytes of the standard input; None for the others.
    """

    name: str
    piped: bytes | None = None

    @cached_property
    def content(self) -> bytes | None:
        """The bytes of the standard input or of a URL, fetched once; None for a file.

        Raises:
            OTPruneError: as `otprune.asking.remote.fetch`.
        """
        return fetch(self.name) if self._remote else self.piped

    @property
    def _remote(self) -> bool:
        return bool(self.piped is None and is_url(self.name))

    @property
    def label(self) -> str:
        """Its name in messages."""
        return "standard input" if self.piped is not None else self.name

    @property
    def short(self) -> str:
        """Its label without folders."""
        return os.path.basename(self.label.partition("?")[0] if self._remote else self.label) or (
            self.label
        )

    @property
    def path(self) -> Path | None:
        """Its path; None for the standard input and URLs."""
        return None if self.piped is not None or self._remote else Path(self.name)

    def read(self) -> bytes:
        """The content of the file.

        Raises:
            OTPruneError: there is no such file, or it cannot be read or fetched.
        """
        if self.content is not None:
            return self.content
        self._check_file()
        try:
            return Path(self.name).read_bytes()
        except OSError as cause:
            raise OTPruneError(f"cannot read {self.label}: {cause.strerror}") from cause

    def open(self) -> Opened:
        """The first image of the file in RGB, turned as its EXIF says, transparency on white.

        Raises:
            OTPruneError: there is no such file, it cannot be read as an image, or it has more
                pixels than Pillow's limit against decompression bombs.
        """
        if self.content is None:
            self._check_file()
        try:
            try:
                return self._read()
            except UnidentifiedImageError:
                if not self._plugged():
                    raise
                return self._read()
        except Image.DecompressionBombError as cause:
            found = re.search(r"\d+", str(cause))
            size = f"{int(found[0]):,} pixels" if found else "too many pixels"
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise OTPruneError(
                f"{self.label} has {size}, more than the {limit:,} that are read: shrink it first"
            ) from cause
        except UnidentifiedImageError as cause:
            raise OTPruneError(f"{self.label} {self._advice()}") from cause
        except Exception as cause:  # decoders raise exceptions of any type for broken data
            why = " ".join(str(cause).split()) or type(cause).__name__
            raise OTPruneError(f"cannot read {self.label}, it may be damaged: {why}") from cause

    def _check_file(self) -> None:
        if os.path.isdir(self.name):
            raise OTPruneError(f"{self.name} is a folder, where one image was expected")
        if not os.path.exists(self.name):
            raise OTPruneError(f"no such image: {self.name}")

    def _read(self) -> Opened:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at twice the warning's size Pillow raises an error
            with Image.open(self._source()) as opened:
                opened.load()
                image = rgb(ImageOps.exif_transpose(opened))
                return Opened(image, _note(opened))

    def _source(self) -> str | io.BytesIO:
        return self.name if self.content is None else io.BytesIO(self.content)

    def _kind(self) -> _Kind | None:
        if self.content is not None:
            head = self.content[:64]
        else:
            with open(self.name, "rb") as file:
                head = file.read(64)
        return next((kind for kind in _KINDS if kind.starts.match(head)), None)

    def _plugged(self) -> bool:
        """Load the plugin for this kind of file; False if there is none or it is not installed."""
        kind = self._kind()
        if kind is None or not kind.plugin:
            return False
        try:
            module = importlib.import_module(kind.plugin)
        except ImportError:
            return False
        getattr(module, "register_heif_opener", lambda: None)()
        return True

    def _advice(self) -> str:
        kind = self._kind()
        if kind is not None:
            return kind.advice
        return "is not an image that can be read: give a PNG, JPEG, WebP or the like"


def named(words: Iterable[str]) -> list[Photo]:
    """The photographs that words name; the standard input is read now, URLs when they are opened.

    A word is a file, a folder (the images in it), a pattern with `*`, a URL or "-".

    Raises:
        OTPruneError: a folder or a pattern without images, or the standard input is a terminal or
            empty.
    """
    photos: list[Photo] = []
    piped: bytes | None = None
    for word in words:
        if word == STDIN:
            piped = _standard_input() if piped is None else piped
            photos.append(Photo(word, piped))
        elif os.path.isdir(word):
            photos += [Photo(str(path)) for path in images_in(word, SUFFIXES)]
        elif os.path.exists(word) or is_url(word) or not has_magic(word):
            photos.append(Photo(word))
        else:
            photos += [Photo(str(path)) for path in images_like(word)]
    return photos


def is_url(word: str) -> bool:
    """Whether a word is a URL and no file's name."""
    return bool(_URL.match(word)) and not os.path.exists(word)


def _standard_input() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise OTPruneError("- is the standard input, and nothing is piped into it")
    content = sys.stdin.buffer.read()
    if not content:
        raise OTPruneError("- is the standard input, and it is empty")
    return content


def _note(opened: Image.Image) -> str:
    """Which of several images was read; empty for one image, and where the rest is damaged."""
    word = ANIMATED.get(opened.format or "")
    if word is None:
        return ""
    try:
        count = int(getattr(opened, "n_frames", 1))
    except Exception:  # the first image is intact, those after it need not be
        return ""
    return f"{word} 1 of {count}" if count > 1 else ""
