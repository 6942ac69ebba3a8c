"""Reading photographs: whatever they are, an RGB picture the right way up, or one clear line."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from otprune.errors import OTPruneError


def open_picture(path: Path) -> Image.Image:
    """A picture in RGB, turned as its EXIF says, transparency on white, of an animation the first.

    Raises:
        OTPruneError: there is no such file, or it cannot be read as a picture, or it has more
            pixels than Pillow's limit against decompression bombs.
    """
    if os.path.isdir(path):
        raise OTPruneError(f"{path} is a folder: name the pictures in it, for instance {path}/*")
    if not os.path.exists(path):
        raise OTPruneError(f"no such picture: {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # twice the warning's size is an error, and is refused
            with Image.open(path) as opened:
                opened.load()
                return _rgb(ImageOps.exif_transpose(opened))
    except Image.DecompressionBombError as cause:
        found = re.search(r"\d+", str(cause))
        size = f"{int(found[0]):,} pixels" if found else "too many pixels"
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise OTPruneError(
            f"{path} has {size}, more than the {limit:,} that are read: shrink it first"
        ) from cause
    except UnidentifiedImageError as cause:
        raise OTPruneError(
            f"{path} is not a picture that can be read: give a PNG, JPEG, WebP or the like"
        ) from cause
    except Exception as cause:  # decoders raise whatever they like at broken data
        why = " ".join(str(cause).split()) or type(cause).__name__
        raise OTPruneError(f"cannot read {path}, it may be damaged: {why}") from cause


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        picture = _eight_bit(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.new("RGBA", layer.size, "white")
        picture.alpha_composite(layer)
    return picture.convert("RGB")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """A deep greyscale picture; Pillow alone would cut off what is brighter than 255."""
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    top = float(values.max())
    if picture.mode == "F":
        white = 1.0 if top <= 1 else 255.0 if top <= 255 else top
    else:
        white = 65535.0 if top <= 65535 else top
    return Image.fromarray((values.clip(0) * (255 / white)).round().clip(0, 255).astype(np.uint8))
