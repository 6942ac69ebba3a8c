"""Which vision encoders a selection inside is known to be right for, as a table.

A row says where an encoder's layers are and which of its tokens show what: the special tokens in
front, and the grid of each image, tile or frame. Everything else is read from the layers' calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from otprune.engines.common.grids import (
    Layout,
    blocks,
    frames_of,
    images_of,
    packed,
    places_of,
)
from otprune.errors import UnsupportedError

# From an encoder, the arguments of its call, the shape `(rows, n)` of its sequences, and the side
# of the blocks that the model combines.
Find = Callable[[Any, Mapping[str, Any], tuple[int, int], int], Layout]


@dataclass(frozen=True)
class Tower:
    """How one class of vision encoders lays out its tokens.

    layers: path of the list of its layers.
    layout: finds the layout of a call.
    norm, mlp: names of a layer's MLP and of the norm in front of it, which gets what the attention
        has added to.
    """

    layers: str
    layout: Find
    norm: str
    mlp: str = "mlp"


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _square(special: Callable[[Any], int]) -> Find:
    """Images of one size, pixels `(rows, channels, height, width)`, after special tokens."""

    def find(tower: Any, given: Mapping[str, Any], shape: tuple[int, int], side: int) -> Layout:
        rows, n = shape
        patch, size = _pair(tower.config.patch_size), given["pixel_values"].shape[-2:]
        height, width = (int(a) // b for a, b in zip(size, patch, strict=True))
        first = special(tower.config)
        _check_size(tower, n, first + height * width)
        return images_of(rows, height, width, side, first)

    return find


def _masked(tower: Any, given: Mapping[str, Any], shape: tuple[int, int], side: int) -> Layout:
    """Images of one grid, `patch_attention_mask` `(rows, height, width)` telling padding."""
    rows, n = shape
    patch, size = _pair(tower.config.patch_size), given["pixel_values"].shape[-2:]
    height, width = (int(a) // b for a, b in zip(size, patch, strict=True))
    _check_size(tower, n, height * width)
    units, places = blocks(height, width, side), places_of(height, width, side)
    mask = given.get("patch_attention_mask")
    if mask is None:
        return images_of(rows, height, width, side, 0)
    shown = [real[units].any(dim=1) for real in mask.reshape(rows, -1).bool().cpu()]
    return Layout(
        [units[some] + row * n for row, some in enumerate(shown)],
        torch.arange(0),
        [places[some] for some in shown],
    )


def _native(tower: Any, given: Mapping[str, Any], shape: tuple[int, int], side: int) -> Layout:
    """Images of any grid, `spatial_shapes` `(rows, 2)`, each padded to n tokens."""
    _, n = shape
    grids = [(int(h), int(w)) for h, w in given["spatial_shapes"].tolist()]
    return Layout(
        [blocks(*grid, side) + row * n for row, grid in enumerate(grids)],
        torch.arange(0),
        [places_of(*grid, side) for grid in grids],
    )


def _pixtral(tower: Any, given: Mapping[str, Any], shape: tuple[int, int], side: int) -> Layout:
    """Images of any size, packed into one sequence, each in raster order."""
    sizes = given.get("image_sizes")
    if sizes is None:
        pixels = given["pixel_values"]
        sizes = [pixels.shape[-2:]] * len(pixels)
    patch = int(tower.patch_size)
    grids = [(int(h) // patch, int(w) // patch) for h, w in sizes]
    _check_size(tower, shape[1], sum(math.prod(grid) for grid in grids))
    places = [places_of(*grid, side) for grid in grids]
    return Layout(packed(grids, side), torch.arange(0), places)


def _qwen(tower: Any, given: Mapping[str, Any], shape: tuple[int, int], side: int) -> Layout:
    """Frames of any size, packed, the tokens of each merged block next to each other."""
    merged, window = int(tower.spatial_merge_size), getattr(tower, "window_size", None)
    grids = [(int(h), int(w)) for t, h, w in given["grid_thw"].tolist() for _ in range(int(t))]
    _check_size(tower, shape[1], sum(math.prod(grid) for grid in grids))
    return frames_of(grids, merged, window and int(window) // merged // int(tower.patch_size))


def _check_size(tower: Any, found: int, expected: int) -> None:
    if found != expected:
        raise UnsupportedError(
            f"{type(tower).__name__} works on {found} tokens where {expected} were expected, so "
            "which of them show the image is not known: prune without encoder="
        )


def _none(config: Any) -> int:
    return 0


def _class(config: Any) -> int:
    return 1


def _registers(config: Any) -> int:
    return 1 + int(config.num_register_tokens)


TOWERS: dict[str, Tower] = {
    "CLIPVisionModel": Tower("encoder.layers", _square(_class), "layer_norm2"),
    "SiglipVisionModel": Tower("encoder.layers", _square(_none), "layer_norm2"),
    "Siglip2VisionModel": Tower("encoder.layers", _native, "layer_norm2"),
    "Dinov2Model": Tower("encoder.layer", _square(_class), "norm2"),
    "Dinov2WithRegistersModel": Tower("encoder.layer", _square(_registers), "norm2"),
    "InternVLVisionModel": Tower("encoder.layer", _square(_class), "layernorm_after"),
    "Idefics2VisionTransformer": Tower("encoder.layers", _masked, "layer_norm2"),
    "Idefics3VisionTransformer": Tower("encoder.layers", _masked, "layer_norm2"),
    "SmolVLMVisionTransformer": Tower("encoder.layers", _masked, "layer_norm2"),
    "PixtralVisionModel": Tower("transformer.layers", _pixtral, "ffn_norm", "feed_forward"),
    "Qwen2VisionTransformerPretrainedModel": Tower("blocks", _qwen, "norm2"),
    "Qwen2_5_VisionTransformerPretrainedModel": Tower("blocks", _qwen, "norm2"),
    "Qwen3VLVisionModel": Tower("blocks", _qwen, "norm2"),
    "Qwen3VLMoeVisionModel": Tower("blocks", _qwen, "norm2"),
}

# How many tokens of a side are combined into one behind the encoder, where that is not the
# encoder's own doing. Models that are not listed combine none, or mix all tokens (resamplers).
_SIDES: dict[str, Callable[[Any], float]] = {
    "aya_vision": lambda config: config.downsample_factor,
    "cohere2_vision": lambda config: config.downsample_factor,
    "gemma3": lambda config: (
        config.vision_config.image_size
        / config.vision_config.patch_size
        / math.sqrt(config.mm_tokens_per_image)
    ),
    "idefics3": lambda config: config.scale_factor,
    "internvl": lambda config: 1 / config.downsample_ratio,
    "lfm2_vl": lambda config: config.downsample_factor,
    "lighton_ocr": lambda config: config.spatial_merge_size,
    "mistral3": lambda config: config.spatial_merge_size,
    "mistral_large4": lambda config: config.spatial_merge_size,
    "smolvlm": lambda config: config.scale_factor,
}


def side_of(config: Any) -> int:
    """Side of the blocks of tokens that a model combines into one behind its encoder."""
    side = _SIDES.get(getattr(config, "model_type", ""))
    return 1 if side is None else max(1, round(side(config)))


def tower_of(
    model: Any,
    purpose: str = "a selection inside its vision encoder ({}) is not known to be right",
    instead: str = "prune without encoder=",
) -> tuple[Any, Tower]:
    """A model's vision encoder, or the encoder itself, and its row of the table.

    Args:
        purpose, instead: for messages. What it is for, `{}` is the encoder; what to do instead.

    Raises:
        UnsupportedError: there is none in the table, or more than one; says which classes.
    """
    found = [x for x in _outermost(model) if type(x).__name__ in TOWERS]
    if len(found) == 1:
        return found[0], TOWERS[type(found[0]).__name__]
    name = type(model).__name__
    if found:
        names = " and ".join(sorted(type(x).__name__ for x in found))
        raise UnsupportedError(
            f"{name} has several vision encoders ({names}), and which shows what is not known: "
            f"{instead}"
        )
    raise UnsupportedError(
        f"{name}: {purpose.format(encoder_name(model))}; it is for {', '.join(TOWERS)}: {instead}"
    )


def layers_of(tower: Any, row: Tower) -> list[Any]:
    """The layers of an encoder, in order."""
    layers = tower
    for name in row.layers.split("."):
        layers = getattr(layers, name)
    return list(layers)


def inside_of(layer: Any, row: Tower) -> tuple[Any, Any]:
    """The norm in front of a layer's MLP, and the MLP.

    Raises:
        UnsupportedError: the layer has none of that name, since other code replaced it.
    """
    found = getattr(layer, row.norm, None), getattr(layer, row.mlp, None)
    if None in found:
        raise UnsupportedError(
            f"a layer of the vision encoder is a {type(layer).__name__} without {row.norm} and "
            f"{row.mlp}, so where to select is not known: prune without encoder="
        )
    return found


def _outermost(module: Any) -> Iterator[Any]:
    """Modules of known classes, not looking inside them."""
    if type(module).__name__ in TOWERS:
        yield module
        return
    for child in module.children():
        yield from _outermost(child)


def encoder_name(model: Any) -> str:
    """Class name of a model's vision encoder, known or not."""
    for name in ("vision_tower", "visual", "vision_model", "vision_encoder", "image_tower"):
        for module in (model, getattr(model, "base_model", model)):
            if isinstance(getattr(module, name, None), torch.nn.Module):
                return type(getattr(module, name)).__name__
    return "none was found"
