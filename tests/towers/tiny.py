"""One tiny random vision encoder of each class that a selection inside is known for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    Idefics2VisionConfig,
    Idefics3VisionConfig,
    InternVLVisionConfig,
    InternVLVisionModel,
    PixtralVisionConfig,
    PixtralVisionModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SmolVLMVisionConfig,
)
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel
from transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe import Qwen3VLMoeVisionConfig
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeVisionModel
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionTransformer

LAYERS = 4
SIDE = 6  # patches of a side
PATCH = 8

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "patch_size": PATCH,
}
_SQUARE: dict[str, Any] = {**_SIZES, "image_size": PATCH * SIDE}
_QWEN: dict[str, Any] = {
    "depth": LAYERS,
    "hidden_size": 32,
    "num_heads": 4,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
}
GRIDS = torch.tensor([(1, 8, 6), (2, 4, 4), (1, 4, 8)])  # a video of two frames among images


@dataclass(frozen=True)
class Tower:
    """How to build one, and what to call it with.

    packed: whether all images are one sequence.
    """

    build: Callable[[], Any]
    inputs: Callable[[], dict[str, Any]]
    packed: bool = False


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _pixels() -> dict[str, Any]:
    return {"pixel_values": _random(3, 3, PATCH * SIDE, PATCH * SIDE)}


def _padded() -> dict[str, Any]:
    mask = torch.ones(3, SIDE, SIDE, dtype=torch.bool)
    mask[1, :, 4:] = False
    mask[2, 3:] = False
    return {**_pixels(), "patch_attention_mask": mask}


def _native() -> dict[str, Any]:
    shapes = torch.tensor([(6, 6), (4, 6), (5, 3)])
    mask = torch.zeros(3, SIDE * SIDE, dtype=torch.int64)
    for row, (height, width) in enumerate(shapes.tolist()):
        mask[row, : height * width] = 1
    return {
        "pixel_values": _random(3, SIDE * SIDE, 3 * PATCH**2),
        "pixel_attention_mask": mask,
        "spatial_shapes": shapes,
    }


def _sizes() -> dict[str, Any]:
    sizes = torch.tensor([(48, 48), (32, 48), (40, 24)])
    return {"pixel_values": _random(3, 3, 48, 48), "image_sizes": sizes}


def _grids() -> dict[str, Any]:
    number = int(GRIDS.prod(dim=1).sum())
    return {"hidden_states": _random(number, 3 * 2 * PATCH**2), "grid_thw": GRIDS}


TOWERS: dict[str, Tower] = {
    "CLIPVisionModel": Tower(lambda: CLIPVisionModel(CLIPVisionConfig(**_SQUARE)), _pixels),
    "SiglipVisionModel": Tower(
        lambda: SiglipVisionModel(SiglipVisionConfig(**_SQUARE, vision_use_head=False)), _pixels
    ),
    "Siglip2VisionModel": Tower(
        lambda: Siglip2VisionModel(
            Siglip2VisionConfig(**_SIZES, num_patches=SIDE * SIDE, vision_use_head=False)
        ),
        _native,
    ),
    "Dinov2Model": Tower(lambda: Dinov2Model(Dinov2Config(**_SQUARE)), _pixels),
    "Dinov2WithRegistersModel": Tower(
        lambda: Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**_SQUARE, num_register_tokens=3)
        ),
        _pixels,
    ),
    "InternVLVisionModel": Tower(
        lambda: InternVLVisionModel(
            InternVLVisionConfig(
                **{**_SQUARE, "image_size": [PATCH * SIDE] * 2, "patch_size": [PATCH] * 2}
            )
        ),
        _pixels,
    ),
    "Idefics2VisionTransformer": Tower(
        lambda: Idefics2VisionTransformer(Idefics2VisionConfig(**_SQUARE)), _padded
    ),
    "Idefics3VisionTransformer": Tower(
        lambda: Idefics3VisionTransformer(Idefics3VisionConfig(**_SQUARE)), _padded
    ),
    "SmolVLMVisionTransformer": Tower(
        lambda: SmolVLMVisionTransformer(SmolVLMVisionConfig(**_SQUARE)), _padded
    ),
    "PixtralVisionModel": Tower(
        lambda: PixtralVisionModel(PixtralVisionConfig(**_SQUARE)), _sizes, packed=True
    ),
    "Qwen2VisionTransformerPretrainedModel": Tower(
        lambda: Qwen2VisionTransformerPretrainedModel(
            Qwen2VLVisionConfig(**_QWEN, embed_dim=32, mlp_ratio=2)
        ),
        _grids,
        packed=True,
    ),
    "Qwen2_5_VisionTransformerPretrainedModel": Tower(
        lambda: Qwen2_5_VisionTransformerPretrainedModel(
            Qwen2_5_VLVisionConfig(
                **_QWEN,
                intermediate_size=64,
                out_hidden_size=32,
                window_size=32,
                fullatt_block_indexes=[2],
            )
        ),
        _grids,
        packed=True,
    ),
    "Qwen3VLVisionModel": Tower(
        lambda: Qwen3VLVisionModel(
            Qwen3VLVisionConfig(
                **_QWEN,
                intermediate_size=64,
                out_hidden_size=32,
                num_position_embeddings=16,
                deepstack_visual_indexes=[0, 2],
            )
        ),
        _grids,
        packed=True,
    ),
    "Qwen3VLMoeVisionModel": Tower(
        lambda: Qwen3VLMoeVisionModel(
            Qwen3VLMoeVisionConfig(
                **_QWEN,
                intermediate_size=64,
                out_hidden_size=32,
                num_position_embeddings=16,
                deepstack_visual_indexes=[0, 2],
            )
        ),
        _grids,
        packed=True,
    ),
}


def build(name: str, attention: str = "sdpa") -> Any:
    """An encoder in eval mode, float32, seeded, with weights that make attention matter."""
    torch.manual_seed(0)
    tower = TOWERS[name].build()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tower.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    tower.set_attn_implementation(attention)
    return tower.eval()
