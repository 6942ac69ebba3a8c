"""Gemma3 and PaliGemma: attention among image tokens (Gemma3) or the prompt goes both ways."""

from __future__ import annotations

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
)

from .base import IMAGE, TEXT, VISION_END, VISION_START, Family, Inputs, prompts
from .onevision import SIGLIP

TOKENS = 16
WINDOW = 12  # shorter than an image: a sliding layer does not see all of it


def _gemma3() -> PreTrainedModel:
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={
                **TEXT,
                "sliding_window": WINDOW,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            vision_config={**SIGLIP, "patch_size": 7},
            mm_tokens_per_image=TOKENS,
            image_token_index=IMAGE,
            boi_token_index=VISION_START,
            eoi_token_index=VISION_END,
            tie_word_embeddings=False,
        )
    )


def _paligemma() -> PreTrainedModel:
    return PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(
            text_config={"model_type": "gemma", **TEXT},
            vision_config={**SIGLIP, "projection_dim": 32},
            image_token_index=IMAGE,
            projection_dim=32,
            hidden_size=32,
            tie_word_embeddings=False,
        )
    )


def _pixels(inputs: Inputs, number: int, generator: torch.Generator) -> Inputs:
    if number:
        inputs["pixel_values"] = torch.randn(number, 3, 56, 56, generator=generator)
    return inputs


def _gemma3_inputs(images: tuple[int, ...], generator: torch.Generator) -> Inputs:
    image = [VISION_START, *[IMAGE] * TOKENS, VISION_END]
    inputs = prompts(images, [image] * sum(images))
    inputs["token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    return _pixels(inputs, sum(images), generator)


def _paligemma_inputs(images: tuple[int, ...], generator: torch.Generator) -> Inputs:
    """Type 0 is the prefix, all of which sees all of it; a suffix (training) would be 1."""
    inputs = prompts(images, [[IMAGE] * TOKENS] * sum(images))
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return _pixels(inputs, sum(images), generator)


GEMMA3 = Family("gemma3", _gemma3, _gemma3_inputs)
PALIGEMMA = Family("paligemma", _paligemma, _paligemma_inputs)
