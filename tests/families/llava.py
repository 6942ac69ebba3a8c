"""LLaVA and LLaVA-NeXT."""

from __future__ import annotations

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

from .base import IMAGE, TEXT, Family, Inputs, cycle, prompts

LLAMA = {"model_type": "llama", **TEXT}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "projection_dim": 32,
}
# (height, width) -> (tiles incl. the thumbnail, placeholders): 16 for the thumbnail, then the grid
# of the best resolution with its padding cut off, and one newline at the end of each of its rows.
ANYRES = {(56, 112): (3, 16 + 4 * 8 + 4), (112, 112): (5, 16 + 8 * 8 + 8), (100, 60): (5, 56)}
PINPOINTS = [[56, 112], [112, 56], [112, 112]]


def _llava() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=dict(LLAMA),
            vision_config=dict(CLIP),
            image_token_index=IMAGE,
            vision_feature_layer=-2,
            image_seq_length=16,
        )
    )


def _llava_inputs(images: tuple[int, ...], generator: torch.Generator) -> Inputs:
    inputs = prompts(images, [[IMAGE] * 16] * sum(images))
    if sum(images):
        inputs["pixel_values"] = torch.randn(sum(images), 3, 56, 56, generator=generator)
    return inputs


def _llava_next() -> LlavaNextForConditionalGeneration:
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            text_config=dict(LLAMA),
            vision_config=dict(CLIP),
            image_token_index=IMAGE,
            image_grid_pinpoints=PINPOINTS,
            image_seq_length=16,
        )
    )


def _llava_next_inputs(images: tuple[int, ...], generator: torch.Generator) -> Inputs:
    sizes = cycle(list(ANYRES), sum(images))
    inputs = prompts(images, [[IMAGE] * ANYRES[size][1] for size in sizes])
    if sizes:
        tiles = max(ANYRES[size][0] for size in sizes)
        inputs["pixel_values"] = torch.randn(len(sizes), tiles, 3, 56, 56, generator=generator)
        inputs["image_sizes"] = torch.tensor(sizes)
    return inputs


LLAVA = Family("llava", _llava, _llava_inputs)
LLAVA_NEXT = Family("llava_next", _llava_next, _llava_next_inputs)
