"""The embedded model's shape: a stock `LlavaForConditionalGeneration` of two million parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from otprune.demo.words import VOCABULARY
from otprune_training.scenes import GRID, PATCH

WORD_ID = {word: i for i, word in enumerate(VOCABULARY)}
PAD, BOS, EOS, IMAGE, UNK = range(5)
# A large rotary base leaves most of a head's pairs unturned over 150 positions, so that a question
# can look an image token up by content from wherever it stands.
THETA = 1e6
IMAGE_MEAN = (0.45, 0.42, 0.40)
IMAGE_STD = (0.27, 0.26, 0.27)


def config(theta: float = THETA, grid: int = GRID) -> LlavaConfig:
    """CLIP tower (128 wide, 5 layers), LLaVA projector, Llama (128 wide, 4 layers).

    theta: base of the rotary embedding.
    grid: patches along a side of the image; each is a token.
    """
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=grid * PATCH,
        patch_size=PATCH,
        projection_dim=128,
    )
    text = LlamaConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=len(VOCABULARY),
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=grid * grid,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def build(seed: int, theta: float = THETA, grid: int = GRID) -> Any:
    """A fresh model; its position embeddings start as sines and cosines of row and column."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config(theta, grid))
    embedding = model.model.vision_tower.embeddings.position_embedding
    with torch.no_grad():
        embedding.weight[0].zero_()
        embedding.weight[1:].copy_(0.5 * _sines(grid, embedding.embedding_dim))
    return model


def _sines(grid: int, width: int) -> Tensor:
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    rate = 100.0 ** (-torch.arange(width // 4) / (width // 4))
    angles = [axis.flatten()[:, None] * rate for axis in (column, row)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1)
