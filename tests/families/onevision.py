"""LLaVA-OneVision: anyres for an image on its own, one tile when a row holds several; video."""

from __future__ import annotations

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from .base import IMAGE, TEXT, VIDEO, Family, Inputs, cycle, prompts
from .llava import ANYRES, PINPOINTS

SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "vision_use_head": False,
}
FRAMES = 3


def _onevision() -> LlavaOnevisionForConditionalGeneration:
    return LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            text_config={"model_type": "qwen2", **TEXT},
            vision_config=dict(SIGLIP),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            vision_feature_layer=-1,
            image_grid_pinpoints=PINPOINTS,
        )
    )


def _inputs(images: tuple[int, ...], generator: torch.Generator, video: bool) -> Inputs:
    sizes = cycle(list(ANYRES), sum(images))
    alone = [count == 1 for count in images for _ in range(count)]
    # one tile is 4 x 4 tokens and a newline
    lengths = [ANYRES[size][1] if a else 17 for size, a in zip(sizes, alone, strict=True)]
    clip = [VIDEO] * (FRAMES * 2 * 2 + 1)  # every frame pooled to 2 x 2, one newline at the end
    inputs = prompts(images, [[IMAGE] * n for n in lengths], [clip] * len(images) if video else ())
    if sizes:
        tiles = max(ANYRES[size][0] for size in sizes)
        inputs["pixel_values"] = torch.randn(len(sizes), tiles, 3, 56, 56, generator=generator)
        inputs["image_sizes"] = torch.tensor(sizes)
        inputs["batch_num_images"] = torch.tensor(images)
    if video:
        shape = (len(images), FRAMES, 3, 56, 56)
        inputs["pixel_values_videos"] = torch.randn(shape, generator=generator)
    return inputs


LLAVA_ONEVISION = Family("llava_onevision", _onevision, _inputs, has_video=True)
