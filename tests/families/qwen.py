"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: M-RoPE, images of any size, video, deepstack (Qwen3-VL)."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from .base import IMAGE, TEXT, VIDEO, VISION_END, VISION_START, Family, Inputs, cycle, prompts

GRIDS = [(1, 8, 8), (1, 4, 12), (1, 6, 4)]  # (frames, height, width) in patches; 2 x 2 are merged
VIDEO_GRID = (3, 4, 6)
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
}


def _build(config_class: Any, model_class: Any, **vision: Any) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    config = config_class(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={**VISION, **vision},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    return model_class(config)


def _qwen2_vl() -> PreTrainedModel:
    return _build(
        Qwen2VLConfig, Qwen2VLForConditionalGeneration, embed_dim=32, mlp_ratio=2, patch_size=14
    )


def _qwen2_5_vl() -> PreTrainedModel:
    return _build(
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        intermediate_size=64,
        out_hidden_size=32,
        patch_size=14,
        window_size=112,
        fullatt_block_indexes=[1],
    )


def _qwen3_vl() -> PreTrainedModel:
    return _build(
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        intermediate_size=64,
        out_hidden_size=32,
        patch_size=16,
        num_position_embeddings=16,
        deepstack_visual_indexes=[0, 1],
    )


def _inputs(
    images: tuple[int, ...],
    generator: torch.Generator,
    video: bool,
    patch: int = 14,
    per_frame: bool = False,
) -> Inputs:
    """`per_frame`: Qwen3-VL puts a time stamp and delimiters around every frame of a video."""
    grids = cycle(GRIDS, sum(images))
    placeholders = [[VISION_START, *[IMAGE] * (t * h * w // 4), VISION_END] for t, h, w in grids]
    frames, height, width = VIDEO_GRID
    frame = [VIDEO] * (height * width // 4)
    if per_frame:
        clip = [t for f in range(frames) for t in (40 + f, VISION_START, *frame, VISION_END)]
    else:
        clip = [VISION_START, *frame * frames, VISION_END]
    inputs = prompts(images, placeholders, [clip] * len(images) if video else ())
    ids = inputs["input_ids"]
    inputs["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    width_in = 3 * 2 * patch * patch
    if grids:
        patches = sum(t * h * w for t, h, w in grids)
        inputs["pixel_values"] = torch.randn(patches, width_in, generator=generator)
        inputs["image_grid_thw"] = torch.tensor(grids)
    if video:
        patches = frames * height * width * len(images)
        inputs["pixel_values_videos"] = torch.randn(patches, width_in, generator=generator)
        inputs["video_grid_thw"] = torch.tensor([VIDEO_GRID] * len(images))
    return inputs


def _qwen3_inputs(images: tuple[int, ...], generator: torch.Generator, video: bool) -> Inputs:
    return _inputs(images, generator, video, patch=16, per_frame=True)


QWEN2_VL = Family("qwen2_vl", _qwen2_vl, _inputs, has_video=True)
QWEN2_5_VL = Family("qwen2_5_vl", _qwen2_5_vl, _inputs, has_video=True)
QWEN3_VL = Family("qwen3_vl", _qwen3_vl, _qwen3_inputs, has_video=True)
