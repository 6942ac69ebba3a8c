"""Which of vLLM's vision encoders a selection inside is known to be right for, as data.

What is here reads a model's configuration, so that a stage is checked, and its tokens are counted,
where no model is. Imports none of vLLM's modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from otprune.engines.common.stage import EncoderStage
from otprune.engines.vllm.families import Family
from otprune.errors import OTPruneError, UnsupportedError

COMPILED = "otprune_encoder_compiled"  # of a model's configuration: its encoder is compiled


@dataclass(frozen=True)
class Tower:
    """How vLLM builds the vision encoder of one kind of configuration.

    path: of the encoder, in the model.
    layers: of the list of its layers, in the encoder.
    special: special tokens in front of each image; None where frames of any size are packed into
        one sequence, the tokens of each merged block next to each other.
    norm: name of the norm in front of a layer's MLP.
    """

    path: str
    layers: str
    special: int | None
    norm: str = "norm2"


# Keys are the model type of `vision_config`.
TOWERS: dict[str, Tower] = {
    "clip_vision_model": Tower("vision_tower.vision_model", "encoder.layers", 1, "layer_norm2"),
    "siglip_vision_model": Tower("vision_tower.vision_model", "encoder.layers", 0, "layer_norm2"),
    "internvl_vision": Tower("vision_tower", "encoder.layer", 1, "layernorm_after"),
    "qwen2_vl_vision": Tower("visual", "blocks", None),
    "qwen2_5_vl_vision": Tower("visual", "blocks", None),
    "qwen3_vl_vision": Tower("visual", "blocks", None),
}


def tower_of(config: Any) -> Tower:
    """The row of a model's vision encoder.

    Raises:
        UnsupportedError: it is not in the table.
    """
    kind = config.vision_config.model_type
    if kind not in TOWERS:
        raise UnsupportedError(
            f"encoder_keep: a selection inside this model's vision encoder ({kind}) is not known "
            f"to be right; it is for {', '.join(TOWERS)}: leave it out"
        )
    return TOWERS[kind]


def first_layer(config: Any, stage: EncoderStage) -> int:
    """Index of the layer in which the stage selects.

    Raises:
        OTPruneError: there is none whose output the model reads.
    """
    vision = config.vision_config
    layers = int(vision.depth if tower_of(config).special is None else vision.num_hidden_layers)
    first = stage.layer(layers)
    given = getattr(config, "vision_feature_layer", -1)
    deepest = [given] if isinstance(given, int) else given
    read = max(x if x >= 0 else layers + 1 + x for x in deepest)
    if first >= read:
        raise OTPruneError(
            f"encoder_after={stage.after!r} is behind {first} layers, and the model reads what "
            f"{read} of {layers} layers give: give a smaller one"
        )
    return first


def check_stage(config: Any, multimodal: Any, stage: EncoderStage) -> None:
    """Refuse a stage that would be wrong, or would not be there.

    Args:
        config: the model's configuration.
        multimodal: vLLM's `MultiModalConfig`.

    Raises:
        UnsupportedError: says why.
        OTPruneError: see `first_layer`.
    """
    first_layer(config, stage)
    if getattr(multimodal, "mm_encoder_tp_mode", "weights") == "data":
        raise UnsupportedError(
            "encoder_keep with --mm-encoder-tp-mode data: each rank would see only the images that "
            "it encodes itself; use --mm-encoder-tp-mode weights, or leave encoder_keep out"
        )
    if getattr(config, COMPILED, False):
        raise UnsupportedError(
            "encoder_keep with compile_mm_encoder: compiled layers would run without the "
            "selection; leave one of the two out"
        )


def side_of(config: Any) -> int:
    """Side of the blocks of tokens that the model combines into one behind its encoder."""
    if tower_of(config).special is None:
        return int(config.vision_config.spatial_merge_size)
    return max(1, round(1 / getattr(config, "downsample_ratio", 1.0)))


def most_kept(
    config: Any, family: Family, stage: EncoderStage, m: int, grid: Sequence[int] | None
) -> int | None:
    """How many tokens of a set of the prompt differ behind a stage.

    Args:
        m: number of tokens of a set.
        grid: frames, rows and columns of its image or video, where frames of any size are packed.

    Returns:
        None if all of them may, or if that is not known before there are features: where the model
        adds rows to the tokens of its encoder, or mixes them.
    """
    if grid is None:
        height, width = _grid_of_images(config)
        each = height * width // side_of(config) ** 2
    else:
        each = int(grid[1]) * int(grid[2]) // side_of(config) ** 2
    parts, odd = divmod(m, each)
    if family.packs or odd:
        return None
    return parts * stage.method.count(each)


def _grid_of_images(config: Any) -> tuple[int, int]:
    size, patch = config.vision_config.image_size, config.vision_config.patch_size
    (height, width), (down, right) = (
        (x, x) if isinstance(x, int) else (int(x[0]), int(x[1])) for x in (size, patch)
    )
    return height // down, width // right
