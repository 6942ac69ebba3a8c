"""Which columns of a prompt are kept, from the report only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from otprune.engines.transformers import Pruned
from tests.families.base import images_in

TOLERANCE = 2e-4
NOTHING = torch.zeros(3, 0, dtype=torch.long)  # no answer after the prompts of three sequences


def kept_columns(inputs: dict[str, Tensor], items: Sequence[Pruned]) -> Tensor:
    """`(B, S)` bool: text and kept tokens, False at padding."""
    keep = inputs["attention_mask"].bool().clone()
    for image, item in zip(images_in(inputs["input_ids"]), items, strict=True):
        assert (image.row, image.modality) == (item.row, item.modality)
        keep[image.row, image.columns] = False
        keep[image.row, image.columns[item.indices]] = True
    return keep
