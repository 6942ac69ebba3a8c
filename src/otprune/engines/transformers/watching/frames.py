"""Frames as people have them, to images; and what changed between two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from PIL import ImageOps
from PIL.Image import Image
from torch import Tensor

from otprune.errors import FrameError
from otprune.reading.images import read_image, rgb

# Frames are compared as thumbnails of this many blocks a side.
BLOCKS = 64


def image_of(frame: Any) -> Image:
    """A frame as an RGB image.

    Args:
        frame: a PIL image; an array or tensor `(H, W, 3)`, `(3, H, W)`, `(H, W)` of uint8, or of
            floats in [0, 1]; or the path of an image file. Arrays are RGB (OpenCV's are BGR:
            `frame[..., ::-1]`). An array `(3, W, 3)` is taken for `(H, W, 3)`.

    Raises:
        FrameError: it is none of these, or cannot be read.
    """
    if isinstance(frame, (str, Path)):
        return read_image(Path(frame))
    if isinstance(frame, Image):
        if not all(frame.size):
            raise FrameError(f"a frame has size {frame.size}: expected at least one pixel")
        try:
            return rgb(ImageOps.exif_transpose(frame))
        except Exception as cause:  # a file that is read late, and is broken
            raise FrameError(f"a frame cannot be read: {cause}") from cause
    if isinstance(frame, Tensor):
        frame = frame.detach().cpu().float().numpy() if frame.is_floating_point() else frame.cpu()
    if not isinstance(frame, (np.ndarray, Tensor)):
        raise FrameError(
            f"a frame is a {type(frame).__name__}: expected a PIL image, an array or tensor of "
            "pixels, or the path of an image"
        )
    return _image_of_array(np.asarray(frame))


def _image_of_array(pixels: np.ndarray[Any, Any]) -> Image:
    shape = pixels.shape
    if pixels.ndim == 3 and shape[-1] != 3 and shape[0] == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if not pixels.size or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3)):
        raise FrameError(f"a frame has shape {shape}: expected (H, W, 3), (3, H, W) or (H, W)")
    if np.issubdtype(pixels.dtype, np.floating):
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise FrameError(
                "a frame of floats has values outside [0, 1]: scale it, or give it as uint8"
            )
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise FrameError(f"a frame has dtype {pixels.dtype}: expected uint8, or floats in [0, 1]")
    return PIL.Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def thumbnail(image: Image) -> Tensor:
    """`(BLOCKS, BLOCKS, 3)` uint8, the mean of each block of an RGB image."""
    small = image.resize((BLOCKS, BLOCKS), PIL.Image.Resampling.BOX)
    return torch.from_numpy(np.array(small))


def change(new: Tensor, old: Tensor) -> float:
    """The largest change of a block between two thumbnails, mean over colours, in [0, 1]."""
    return float((new.float() - old.float()).abs().mean(dim=-1).max()) / 255
