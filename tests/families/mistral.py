"""Mistral3: images of any size, a break token after every row of one."""

from __future__ import annotations

import torch
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PreTrainedModel

from .base import IMAGE, TEXT, Family, Inputs, cycle, prompts

BREAK, END = 306, 307
PATCH, MERGE = 14, 2
GRIDS = [(4, 4), (2, 6), (3, 4)]  # rows and columns of tokens


def _mistral3() -> PreTrainedModel:
    return Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config={"model_type": "mistral", "sliding_window": None, **TEXT},
            vision_config={
                "model_type": "pixtral",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "head_dim": 8,
                "image_size": 12 * PATCH,
                "patch_size": PATCH,
            },
            image_token_index=IMAGE,
            spatial_merge_size=MERGE,
            tie_word_embeddings=False,
        )
    )


def _inputs(images: tuple[int, ...], generator: torch.Generator) -> Inputs:
    grids = cycle(GRIDS, sum(images))
    blocks = []
    for rows, columns in grids:
        lines = ([*[IMAGE] * columns, BREAK] * rows)[:-1]  # the last row ends in END
        blocks.append([*lines, END])
    inputs = prompts(images, blocks)
    if grids:
        side = PATCH * MERGE
        height, width = (side * max(n) for n in zip(*grids, strict=True))
        inputs["pixel_values"] = torch.randn(len(grids), 3, height, width, generator=generator)
        inputs["image_sizes"] = torch.tensor(grids) * side
    return inputs


MISTRAL3 = Family("mistral3", _mistral3, _inputs)
