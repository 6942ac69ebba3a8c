"""InternVL, Idefics3 and SmolVLM: an image is several tiles, with or without marks between."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from .base import IMAGE, PAD, TEXT, VISION_END, VISION_START, Family, Inputs, cycle, prompts

TOKENS = 16  # of one tile: 8 x 8 patches, 2 x 2 of them merged
FAKE, OVERVIEW, LINE_END, FIRST_TILE = 304, 305, 34, 310  # <fake_token_around_image>, <global-img>
SPLITS = [(1, 2), (0, 0), (2, 2)]  # rows and columns of tiles beside the overview


def _internvl() -> PreTrainedModel:
    return InternVLForConditionalGeneration(
        InternVLConfig(
            text_config={"model_type": "qwen2", **TEXT},
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 56,
                "patch_size": 7,
            },
            image_token_id=IMAGE,
            image_seq_length=TOKENS,
        )
    )


def _internvl_inputs(images: tuple[int, ...], generator: torch.Generator) -> Inputs:
    """The tiles of an image follow each other, one overview among them if there are several."""
    tiles = [rows * columns + 1 for rows, columns in cycle(SPLITS, sum(images))]
    inputs = prompts(images, [[VISION_START, *[IMAGE] * (TOKENS * n), VISION_END] for n in tiles])
    if tiles:
        inputs["pixel_values"] = torch.randn(sum(tiles), 3, 56, 56, generator=generator)
    return inputs


def _idefics(config_class: Any, model_class: Any) -> PreTrainedModel:
    config = config_class(
        text_config={"model_type": "llama", **TEXT},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 7,
        },
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=PAD,
    )
    return model_class(config)


def _idefics3() -> PreTrainedModel:
    return _idefics(Idefics3Config, Idefics3ForConditionalGeneration)


def _smolvlm() -> PreTrainedModel:
    return _idefics(SmolVLMConfig, SmolVLMForConditionalGeneration)


def _idefics_image(rows: int, columns: int) -> list[int]:
    """Every tile behind its row and column, the overview last, as the processor writes them."""
    ids: list[int] = []
    for row in range(rows):
        for column in range(columns):
            ids += [FAKE, FIRST_TILE + 2 * row + column, *[IMAGE] * TOKENS]
        ids.append(LINE_END)
    return [*ids, *([LINE_END] if rows else []), FAKE, OVERVIEW, *[IMAGE] * TOKENS, FAKE]


def _idefics_inputs(images: tuple[int, ...], generator: torch.Generator) -> Inputs:
    """Pixels are `(rows, most tiles of a row, 3, H, W)`; a tile that is not there is all zero."""
    splits = cycle(SPLITS, sum(images))
    inputs = prompts(images, [_idefics_image(*split) for split in splits])
    if not splits:
        return inputs
    tiles, i = [], 0
    for count in images:
        tiles.append(sum(rows * columns + 1 for rows, columns in splits[i : i + count]))
        i += count
    pixels = torch.zeros(len(images), max(tiles), 3, 56, 56)
    seen = torch.zeros(len(images), max(tiles), 56, 56, dtype=torch.long)
    for b, n in enumerate(tiles):
        pixels[b, :n] = torch.randn(n, 3, 56, 56, generator=generator)
        seen[b, :n] = 1
    return inputs | {"pixel_values": pixels, "pixel_attention_mask": seen}


INTERNVL = Family("internvl", _internvl, _internvl_inputs)
IDEFICS3 = Family("idefics3", _idefics3, _idefics_inputs)
SMOLVLM = Family("smolvlm", _smolvlm, _idefics_inputs)
