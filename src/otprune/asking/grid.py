"""The position of each visual token on the photograph, from the processor and its output."""

from __future__ import annotations

from typing import Any

from PIL.Image import Image

from otprune.asking.drawing import Grid
from otprune.asking.models import Loaded
from otprune.engines.transformers.families import placeholder
from otprune.engines.transformers.watching.kinds import kind_of
from otprune.engines.transformers.watching.wording import ChatWording
from otprune.errors import UnsupportedError


def grid_of(
    name: str, model: Any, processor: Any, inputs: dict[str, Any], size: tuple[int, int]
) -> Grid:
    """The grid of a prompt that shows one image.

    Args:
        name: the model's, for messages.
        model: a transformers model.
        processor: its processor.
        inputs: what the processor made of the image.
        size: width and height of the image in pixels.

    Raises:
        UnsupportedError: the tokens are not in a single grid (tiles), or it is not known which.
    """
    tokens = int((inputs["input_ids"] == placeholder(model.config, "image")).sum())
    vision = getattr(model.config, "vision_config", None)
    if inputs.get("image_grid_thw") is not None:
        return _of_counts(name, inputs["image_grid_thw"], vision, tokens)
    pixels = inputs["pixel_values"]
    _refuse_tiles(name, pixels)
    height, width = (int(n) for n in pixels.shape[-2:])
    if inputs.get("image_sizes") is not None:  # padded at the right and bottom to fit a batch
        height, width = (int(n) for n in inputs["image_sizes"][0])
        region = (0.0, 0.0, 1.0, 1.0)
    else:
        region = _region(name, processor.image_processor, size, (width, height))
    rows = round((tokens * height / width) ** 0.5)
    if rows < 1 or tokens % rows or abs(tokens / rows / rows - width / height) > 0.5 / rows:
        raise _unknown(name, f"{tokens} tokens do not fill a grid over {width} x {height} pixels")
    return Grid(rows, tokens // rows, region)


def grid_of_frame(loaded: Loaded, image: Image) -> Grid:
    """The grid of a frame's tokens in a session, which has its own way to prepare frames.

    Raises:
        UnsupportedError: as for `grid_of`.
    """
    try:
        return _of_frame(loaded, image)
    except UnsupportedError as error:
        raise UnsupportedError(str(error).replace("--overlay", "--record")) from error


def _of_frame(loaded: Loaded, image: Image) -> Grid:
    kind = kind_of(loaded.model.config)
    inputs = ChatWording(loaded.processor, kind).frame([image], [0.0])
    if kind.modality == "image":
        return grid_of(loaded.name, loaded.model, loaded.processor, inputs, image.size)
    counts = inputs.get("video_grid_thw")
    if counts is None:
        raise _unknown(loaded.name, "it has another way for frames of videos")
    tokens = int((inputs["input_ids"] == placeholder(loaded.model.config, "video")).sum())
    vision = getattr(loaded.model.config, "vision_config", None)
    return _of_counts(loaded.name, counts, vision, tokens)


def _of_counts(name: str, counts: Any, vision: Any, tokens: int) -> Grid:
    """Qwen: the processor counts patches, and the model merges squares of them."""
    time, height, width = (int(n) for n in counts[0])
    merge = int(getattr(vision, "spatial_merge_size", 1))
    grid = Grid(height // merge, width // merge)
    if time != 1 or grid.rows * grid.columns != tokens:
        raise _unknown(name, f"{tokens} tokens for {time} x {height} x {width} patches")
    return grid


def _refuse_tiles(name: str, pixels: Any) -> None:
    tiles = 1
    for n in pixels.shape[:-3]:
        tiles *= int(n)
    if tiles != 1:
        raise UnsupportedError(
            f"{name} cuts this image into {tiles} tiles that overlap, so its tokens lie "
            "in no single grid: leave --overlay out, or use a model without tiles"
        )


def _region(
    name: str, processor: Any, size: tuple[int, int], made: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The part of the image that became the `made` pixels (width, height); see `Grid.region`."""
    width, height = size
    if getattr(processor, "do_pad", None) and hasattr(processor, "pad_to_square"):
        side = max(width, height)
        x, y = (side - width) / 2 / width, (side - height) / 2 / height
        return (-x, -y, 1 + x, 1 + y)
    resized = _resized(processor, size)
    if getattr(processor, "do_center_crop", None):
        crop = _pair(processor.crop_size) or resized
    else:
        crop = resized
    if crop != made:
        raise _unknown(name, f"its processor made {made[0]} x {made[1]} pixels in its own way")
    # In whole pixels, as the processors crop.
    left, top = (resized[0] - crop[0]) // 2, (resized[1] - crop[1]) // 2
    return (
        left / resized[0],
        top / resized[1],
        (left + crop[0]) / resized[0],
        (top + crop[1]) / resized[1],
    )


def _resized(processor: Any, size: tuple[int, int]) -> tuple[int, int]:
    if not getattr(processor, "do_resize", None):
        return size
    exact = _pair(processor.size)
    if exact is not None:
        return exact
    short = _get(processor.size, "shortest_edge")
    if short is None or _get(processor.size, "longest_edge") is not None:
        return size
    width, height = size
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def _pair(size: Any) -> tuple[int, int] | None:
    width, height = _get(size, "width"), _get(size, "height")
    return None if width is None or height is None else (width, height)


def _get(size: Any, key: str) -> int | None:
    value = size.get(key) if isinstance(size, dict) else getattr(size, key, None)
    return None if value is None else int(value)


def _unknown(name: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"cannot tell where the tokens of {name} lie on the image ({why}): leave --overlay out"
    )
