"""Image files as frames."""

from __future__ import annotations

import glob
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageOps
from PIL.Image import Image

from otprune.errors import FrameError, OTPruneError
from otprune.reading.moments import Moment, Report

# What is read in a folder, and what is no video. Moving images (.gif) are videos.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".ppm")

# Formats that may hold several images, and what these are.
ANIMATED = {"TIFF": "page", "GIF": "frame", "PNG": "frame", "WEBP": "frame", "AVIF": "frame"}


class Images:
    """Files in the order given, as frames of `fps` a second."""

    live = False

    def __init__(self, files: Sequence[Path], fps: float) -> None:
        self._files, self._fps = files, fps

    def moments(self, report: Report) -> Iterator[Moment]:
        for number, file in enumerate(self._files):
            yield number / self._fps, partial(read_image, file)

    def close(self) -> None:
        pass


def files_of(source: str | Path) -> list[Path] | None:
    """The image files that a source names, in natural order; None if it is no such source.

    Raises:
        OTPruneError: a folder without images, a pattern that no file fits, a file of several
            frames, or an empty name.
    """
    if not str(source):
        raise OTPruneError("the source is empty: expected a path, a URL or a camera's number")
    path = Path(source)
    if path.is_dir():
        return images_in(path)
    if path.exists() or "://" in str(source):
        if not _is_image(path) or not path.exists():
            return None
        _check_single(path)
        return [path]
    return images_like(str(source)) if glob.has_magic(str(source)) else None


def images_in(folder: str | Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """The files of a folder, not of those in it, with these suffixes; in natural order.

    Raises:
        OTPruneError: there is none.
    """
    found = [
        x
        for x in Path(folder).iterdir()
        if x.suffix.lower() in suffixes and not x.name.startswith(".") and not x.is_dir()
    ]
    if not found:
        raise OTPruneError(f"{folder} is a folder without images ({', '.join(suffixes)})")
    return sorted(found, key=_natural)


def images_like(pattern: str) -> list[Path]:
    """The files that a pattern names, of any suffix, in natural order; `**` is any folders.

    Raises:
        OTPruneError: there is none.
    """
    found = [Path(x) for x in glob.glob(pattern, recursive=True) if Path(x).is_file()]
    if not found:
        raise OTPruneError(f"no file fits the pattern {pattern}")
    return sorted(found, key=_natural)


def read_image(file: Path) -> Image:
    """An image file in RGB, turned as its EXIF says.

    Raises:
        FrameError: it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes; twice the size is an error
            with PIL.Image.open(file) as opened:
                return rgb(ImageOps.exif_transpose(opened))
    except Exception as cause:  # of many image formats
        said = " ".join(str(cause).split()) or type(cause).__name__
        raise FrameError(f"{file} cannot be read as an image: {said}") from cause


def rgb(image: Image) -> Image:
    """An image in RGB: transparency on white, more than 8 bits scaled, which Pillow would clip."""
    if image.mode.startswith(("I", "F")):
        image = _eight_bit(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = PIL.Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return image.convert("RGB")


def _eight_bit(image: Image) -> Image:
    """A greyscale image of more than 8 bits, scaled; Pillow would clip values above 255."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = float(values.max())
    if image.mode == "F":
        white = 1.0 if top <= 1 else 255.0 if top <= 255 else top
    else:
        white = 65535.0 if top <= 65535 else top
    scaled = (values.clip(0) * (255 / white)).round().clip(0, 255)
    return PIL.Image.fromarray(scaled.astype(np.uint8))


def _check_single(file: Path) -> None:
    """Refuse a file of several frames or pages as a source, of which only the first is read."""
    try:
        with PIL.Image.open(file) as opened:
            several = ANIMATED.get(opened.format or "")
            count = int(getattr(opened, "n_frames", 1)) if several else 1
    except Exception:  # of many image formats; it is told where the file is read
        return
    if count > 1:
        raise OTPruneError(
            f"{file} has {count} {several}s, and of an image file only the first is read: make it "
            "a video (.mp4 or .gif), or a folder of images"
        )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A key in which numbers count as such: frame2 before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]
