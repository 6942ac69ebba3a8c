"""Frames and questions for tiny models, without processors, and the same in one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import (
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    PreTrainedModel,
)

from .base import BOS, CLOSE_IMAGE, IMAGE, OPEN_IMAGE, VIDEO, VISION_END, VISION_START, Family
from .llava import CLIP, LLAMA, PINPOINTS
from .tiny import FAMILIES

GRID = (1, 4, 6)  # of a frame, in patches; 2 x 2 are merged
TICKS = {"qwen2_vl": 1, "qwen2_5_vl": 4}  # positions a second
# 4 tokens a second is the default of the config; a frame every other second.
EVERY = 2.0


def _next_video() -> LlavaNextVideoForConditionalGeneration:
    return LlavaNextVideoForConditionalGeneration(
        LlavaNextVideoConfig(
            text_config=dict(LLAMA),
            vision_config=dict(CLIP),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=PINPOINTS,
            spatial_pool_stride=2,
        )
    )


def _no_inputs(*_: Any) -> Any:
    raise NotImplementedError("this family is watched only")


NEXT_VIDEO = Family("llava_next_video", _next_video, _no_inputs, has_video=True)
WATCHED: dict[str, Family] = {
    name: family for name, family in FAMILIES.items() if name not in ("gemma3", "paligemma")
} | {"llava_next_video": NEXT_VIDEO}


class Words:
    """A wording: numbers are words. The gray of a frame seeds its pixels."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tokenizer = self

    def decode(self, ids: Tensor | Sequence[int], skip_special_tokens: bool = True) -> str:
        return " ".join(str(int(x)) for x in ids)

    def opening(self) -> list[int]:
        return [BOS, 5, 6, 7, *([VISION_START] if self.name in TICKS else [])]

    def question(self, text: str) -> list[int]:
        return [*([VISION_END] if self.name in TICKS else []), *map(int, text.split())]

    def reopening(self, text: str) -> list[int]:
        return [34, 35, *([VISION_START] if self.name in TICKS else [])]

    def frame(self, images: Sequence[Image], times: Sequence[float]) -> dict[str, Tensor]:
        seed = sum(image.getpixel((0, 0))[0] for image in images)
        return frame(self.name, seed, times[0])


def frame(name: str, seed: int, time: float) -> dict[str, Tensor]:
    """The arguments of a model for one frame."""
    generator = torch.Generator().manual_seed(seed)
    if name.startswith("qwen"):
        pads = [VIDEO] * (GRID[1] * GRID[2] // 4)
        ids = pads if name in TICKS else [40 + int(time), VISION_START, *pads, VISION_END]
        side = 16 if name == "qwen3_vl" else 14
        patches = torch.randn(GRID[1] * GRID[2], 6 * side**2, generator=generator)
        row = torch.tensor([ids])
        return {
            "input_ids": row,
            "mm_token_type_ids": 2 * (row == VIDEO).int(),
            "pixel_values_videos": patches,
            "video_grid_thw": torch.tensor([GRID]),
        }
    if name in ("llava_onevision", "llava_next_video"):
        tokens = 5 if name == "llava_onevision" else 4
        pixels = torch.randn(1, 1, 3, 56, 56, generator=generator)
        ids = [18, *[VIDEO] * tokens, 28]
        return {"input_ids": torch.tensor([ids]), "pixel_values_videos": pixels}
    inputs = FAMILIES[name].inputs((1,), seed=seed)
    row = inputs["input_ids"][0].tolist()
    span = slice(row.index(OPEN_IMAGE), row.index(CLOSE_IMAGE) + 1)
    cut = {key: x[:, span] for key, x in inputs.items() if x.shape == inputs["input_ids"].shape}
    rest = {key: x for key, x in inputs.items() if key not in cut and key != "attention_mask"}
    cut.pop("attention_mask")
    return cut | rest


def joint(name: str, frames: Sequence[dict[str, Tensor]], question: str) -> dict[str, Tensor]:
    """The same frames, whole, in one prompt."""
    words = Words(name)
    before, behind = (torch.tensor([ids]) for ids in (words.opening(), words.question(question)))
    inputs: dict[str, Tensor] = {}
    for key in frames[0]:
        values = [one[key] for one in frames]
        if key == "input_ids":
            inputs[key] = torch.cat([before, *values, behind], dim=1)
        elif key == "mm_token_type_ids":
            inputs[key] = torch.cat(
                [torch.zeros_like(before).int(), *values, torch.zeros_like(behind).int()], dim=1
            )
        else:
            tiles = name in ("idefics3", "smolvlm")  # of all images of a row
            inputs[key] = torch.cat(values, dim=1 if tiles else 0)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if name in TICKS:  # one video of all frames
        inputs["video_grid_thw"] = torch.tensor([[len(frames), *GRID[1:]]])
        inputs["second_per_grid_ts"] = torch.tensor([EVERY])
    if "batch_num_images" in inputs:
        inputs["batch_num_images"] = torch.tensor([len(frames)])
    return inputs


def with_following_text(
    model: PreTrainedModel, name: str, inputs: dict[str, Tensor], question: str
) -> dict[str, Tensor]:
    """With positions where text behind a video follows all of it, as in Qwen's published code.

    transformers lets it follow the height and width of the video alone.
    """
    if name not in TICKS:
        return inputs
    paced = {k: x for k, x in inputs.items() if k in ("second_per_grid_ts",)}
    full, _ = model.base_model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"],
        attention_mask=inputs["attention_mask"],
        **(paced if name == "qwen2_5_vl" else {}),
    )
    full = full.clone()
    if name == "qwen2_vl":  # it counts temporal patches; here a patch is EVERY seconds
        visual = inputs["input_ids"][0] == VIDEO
        start = full[0, 0, visual].min()
        full[0, 0, visual] = start + (full[0, 0, visual] - start) * int(EVERY)
    behind = len(Words(name).question(question))
    full[:, 0, -behind:] = full[:, 0, :-behind].max() + 1 + torch.arange(behind)
    return {k: x for k, x in inputs.items() if k not in paced} | {"position_ids": full}
