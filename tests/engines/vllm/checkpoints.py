"""Tiny random checkpoints with processors of their own, one a family, as they come from a hub.

Big enough for vLLM's kernels, small enough to load in a second; the weights are large, so that an
answer depends on its image, and no special token is ever the likeliest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from otprune_bench.served.model import IMAGE, QWEN, SPECIAL, byte_tokenizer
from otprune_training.export import name_as_published

INTERN = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
PINPOINTS = [[56, 112], [112, 56], [112, 112]]
TEXT: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "tie_word_embeddings": False,
}
ROPE = {"rope_type": "default", "type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 7,
}
QWEN_VISION: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 64,
    "num_heads": 2,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
QWEN_SIZE = {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 256}


@dataclass(frozen=True)
class Checkpoint:
    """A family's tiny checkpoint.

    name: of its folder.
    image, video: what a prompt says where one goes; None for a family that takes no videos.
    mrope: see `otprune.engines.vllm.families.Family`.
    """

    name: str
    image: str
    video: str | None
    build: Callable[[Any], tuple[Any, Any]]
    special: tuple[str, ...]
    mrope: bool = False

    @property
    def positions(self) -> str:
        """Where its kept tokens stand if nothing is said."""
        return "preserved" if self.mrope else "compact"

    def save(self, folder: Path) -> Path:
        """Write it below `folder`; returns where."""
        torch.manual_seed(0)
        tokenizer = byte_tokenizer(self.special, self.image)
        model, processor = self.build(tokenizer)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.2, generator=generator)
            rows = tokenizer.convert_tokens_to_ids([*SPECIAL, *self.special])
            model.get_output_embeddings().weight[rows] = 0
        path = folder / self.name
        model.float().save_pretrained(path)
        processor.save_pretrained(path)
        name_as_published(path / "model.safetensors")
        return path


def _llava(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    config = LlavaConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "clip_vision_model", "projection_dim": 32, **CLIP},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        image_seq_length=64,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
        ),
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return LlavaForConditionalGeneration(config), processor


def _llava_next(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    config = LlavaNextConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "clip_vision_model", "projection_dim": 32, **CLIP},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
        image_seq_length=64,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": 56},
            crop_size={"height": 56, "width": 56},
            image_grid_pinpoints=PINPOINTS,
        ),
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return LlavaNextForConditionalGeneration(config), processor


def _llava_onevision(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    size = {"height": 56, "width": 56}
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **CLIP},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        image_grid_pinpoints=PINPOINTS,
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=PINPOINTS),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=64,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def _internvl(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    tokenizer.start_image_token, tokenizer.end_image_token = "<img>", "</img>"
    tokenizer.context_image_token, tokenizer.video_token = "<IMG_CONTEXT>", "<video>"
    for name in ("start_image_token", "end_image_token", "context_image_token", "video_token"):
        token = tokenizer.convert_tokens_to_ids(getattr(tokenizer, name))
        setattr(tokenizer, f"{name}_id", token)
        tokenizer.init_kwargs[name] = getattr(tokenizer, name)
    size = {"height": 56, "width": 56}
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={
            **{k: v for k, v in CLIP.items() if k not in ("image_size", "patch_size")},
            "image_size": [56, 56],
            "patch_size": [7, 7],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            size=size, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=16,
        chat_template=tokenizer.chat_template,
    )
    return InternVLForConditionalGeneration(config), processor


def _qwen(tokenizer: Any, generation: str) -> tuple[Any, Any]:
    import transformers
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    vision = dict(QWEN_VISION)
    text = {**TEXT, "rope_parameters": dict(ROPE)}
    patch = 14
    if generation == "Qwen2VL":
        vision |= {"embed_dim": 64, "mlp_ratio": 2, "hidden_size": 64}
        text.pop("head_dim")
    elif generation == "Qwen2_5_VL":
        vision |= {
            "intermediate_size": 96,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [2],
        }
        text.pop("head_dim")
    else:
        patch = 16
        vision |= {
            "intermediate_size": 96,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        }
        text["rope_parameters"]["mrope_interleaved"] = True
    identity = tokenizer.convert_tokens_to_ids
    config = getattr(transformers, f"{generation}Config")(
        text_config=text,
        vision_config={**vision, "patch_size": patch},
        image_token_id=identity("<|image_pad|>"),
        video_token_id=identity("<|video_pad|>"),
        vision_start_token_id=identity("<|vision_start|>"),
        vision_end_token_id=identity("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    model = getattr(transformers, f"{generation}ForConditionalGeneration")(config)
    both: dict[str, Any] = {
        "patch_size": patch,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": QWEN_SIZE,
        # One for images and videos, as published: vLLM's encoder knows one alone.
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    video = transformers.Qwen3VLVideoProcessor if generation == "Qwen3VL" else Qwen2VLVideoProcessor
    processor = getattr(transformers, f"{generation}Processor")(
        image_processor=Qwen2VLImageProcessor(**both),
        tokenizer=tokenizer,
        video_processor=video(**both),
        chat_template=tokenizer.chat_template,
    )
    return model, processor


VIDEO = IMAGE.replace("image", "video")
CHECKPOINTS = {
    made.name: made
    for made in (
        Checkpoint("llava", "<image>", None, _llava, ("<image>",)),
        Checkpoint("llava_next", "<image>", None, _llava_next, ("<image>",)),
        Checkpoint(
            "llava_onevision", "<image>", "<video>", _llava_onevision, ("<image>", "<video>")
        ),
        Checkpoint("internvl", "<IMG_CONTEXT>", "<video>", _internvl, INTERN),
        Checkpoint("qwen2_vl", IMAGE, VIDEO, lambda t: _qwen(t, "Qwen2VL"), QWEN, mrope=True),
        Checkpoint("qwen2_5_vl", IMAGE, VIDEO, lambda t: _qwen(t, "Qwen2_5_VL"), QWEN, mrope=True),
        Checkpoint("qwen3_vl", IMAGE, VIDEO, lambda t: _qwen(t, "Qwen3VL"), QWEN, mrope=True),
    )
}
