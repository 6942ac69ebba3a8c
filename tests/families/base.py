"""Shared by all tiny families: vocabulary, text model, prompts, large random parameters.

No processor, no hub, no torchvision: the inputs are what a processor would return, written out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

logging.set_verbosity_error()

VOCABULARY = 320
PAD, BOS = 0, 1
IMAGE, VIDEO, VISION_START, VISION_END = 300, 301, 302, 303
OPEN_IMAGE, CLOSE_IMAGE, OPEN_VIDEO, CLOSE_VIDEO = 10, 20, 18, 28  # text around an image
OPENING, CLOSING = range(10, 19), range(20, 29)
SPECIAL = range(300, 310)  # never generated: a random model would emit image placeholders

TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": None,
}

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """A tiny random model of one family, and inputs for it.

    name: the family's model_type.
    build: a new model, of two layers and width 32.
    make: `(images, generator)`, and `video` where `has_video`, to inputs; see `inputs`.
    """

    name: str
    build: Callable[[], PreTrainedModel]
    make: Callable[..., Inputs]
    has_video: bool = False

    def model(self, attn: str = "sdpa") -> PreTrainedModel:
        """The model in eval mode, float32, seeded; the same weights for every `attn`."""
        torch.manual_seed(0)
        model = self.build()
        _enlarge(model)
        model.set_attn_implementation(attn)
        config = model.generation_config
        config.eos_token_id, config.pad_token_id, config.bos_token_id = None, PAD, BOS
        config.suppress_tokens = [PAD, *SPECIAL]
        return model.eval().float()

    def inputs(
        self, images: Sequence[int] = (1, 2, 0), video: bool = False, seed: int = 1
    ) -> Inputs:
        """Left-padded inputs: row b holds images[b] images and, with `video`, one video."""
        if video and not self.has_video:
            raise ValueError(f"{self.name} takes no video")
        generator = torch.Generator().manual_seed(seed)
        if self.has_video:
            return self.make(tuple(images), generator, video)
        return self.make(tuple(images), generator)


def _enlarge(model: PreTrainedModel) -> None:
    """Weights large enough that the answer depends on the image and argmax is not trivial."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                scale = 0.3 if parameter.ndim == 2 else 0.15
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def prompts(
    images: Sequence[int],
    placeholders: Sequence[Sequence[int]],
    videos: Sequence[Sequence[int]] = (),
) -> Inputs:
    """Input ids and mask, left padded: text, each image's ids between two text tokens, text.

    `placeholders[i]` are the ids that stand for image i of the call, `videos[b]` those that stand
    for the video of row b. Rows differ in length even when they hold equally many images.
    """
    rows, i = [], 0
    for b, count in enumerate(images):
        row = [BOS, 5 + b, 6, 7]
        for j in range(count):
            row += [OPEN_IMAGE + j, *placeholders[i], CLOSE_IMAGE + j]
            i += 1
        if videos:
            row += [OPEN_VIDEO, *videos[b], CLOSE_VIDEO]
        rows.append(row + [30 + b, 31, 32, 33][: 4 - b % 2])
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), PAD)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, length - len(row) :] = torch.tensor(row)
        mask[b, length - len(row) :] = 1
    return {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True)
class Image:
    """An image or a video in a prompt: the columns of its placeholders, `(m,)`."""

    modality: str
    row: int
    columns: torch.Tensor


def images_in(ids: torch.Tensor) -> list[Image]:
    """The images of a batch made by `prompts`, row by row, found by the text around them."""
    found = []
    for row, tokens in enumerate(ids.tolist()):
        start = None
        for column, token in enumerate(tokens):
            if token in OPENING:
                start = column
            elif token in CLOSING and start is not None:
                modality, placeholder = (
                    ("video", VIDEO) if token == CLOSE_VIDEO else ("image", IMAGE)
                )
                columns = (ids[row, start:column] == placeholder).nonzero()[:, 0] + start
                found.append(Image(modality, row, columns))
                start = None
    return found


def cycle(items: Sequence[Any], number: int) -> list[Any]:
    """The first `number` items, starting again when they run out."""
    return [items[i % len(items)] for i in range(number)]
