"""Asking the selectors for all images of one encoder run, the same answer on every rank."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from otprune.engines.vllm.settings import METHOD_NAMES
from otprune.errors import OTPruneError
from otprune.selectors import METHODS

logger = logging.getLogger("vllm.otprune")

# One row travels with every image: tokens before and after, the method's number, merge.
Row = tuple[int, int, int, int]


@dataclass(frozen=True)
class Kept:
    """Indices `(k,)` and rows `(k, d)` of what is kept of one image."""

    indices: Tensor
    rows: Tensor


def row_of(m: int, k: int, method: str, merge: bool) -> Tensor:
    """`(4,)` int64 for one image; see `Row`."""
    return torch.tensor([m, k, METHOD_NAMES.index(method), int(merge)])


@torch.no_grad()
def choose(
    images: list[Tensor],
    rows: list[Row],
    width: int | None = None,
    agree: Callable[[Tensor], Tensor] = lambda x: x,
) -> list[Kept]:
    """What is kept of each image; images of one size and setting are selected in one batch.

    Args:
        images: `(m, d)` each.
        rows: one for each image.
        width: number of leading features to select and merge by, None for all; the others
            (deepstack levels) follow the kept tokens.
        agree: makes a choice the same on every rank of a group.

    Raises:
        OTPruneError: an image has another number of tokens than its placeholders were counted from.
    """
    batches: dict[Row, list[int]] = defaultdict(list)
    for i, (image, row) in enumerate(zip(images, rows, strict=True)):
        if len(image) != row[0]:
            raise OTPruneError(
                f"the encoder made {len(image)} tokens of an image that the processor counted as "
                f"{row[0]}: this checkpoint's processor and encoder disagree, serve it unpruned"
            )
        batches[row].append(i)
    kept: list[Kept | None] = [None] * len(images)
    for row, members in batches.items():
        m, k, method, merge = row
        if k == m:
            for i in members:
                kept[i] = Kept(torch.arange(m, device=images[i].device), images[i])
            continue
        tokens = torch.stack([images[i][:, :width] for i in members])
        finite = tokens.isfinite()
        if not bool(finite.all()):  # an answer from them is lost anyway; the server lives on
            logger.warning("otprune: the encoder made NaN or Inf, which count as 0 in selection")
            tokens = torch.where(finite, tokens, 0.0)
        selector = METHODS[METHOD_NAMES[method]](keep=k)
        if merge:
            reduction = selector.reduce(tokens, merge=True)
            indices, features = agree(reduction.indices), agree(reduction.features)
        else:
            indices, features = agree(selector.select(tokens)), None
        for j, i in enumerate(members):
            rest = images[i][indices[j]]
            if features is not None:
                rest = torch.cat([features[j], rest[:, features.shape[-1] :]], dim=-1)
            kept[i] = Kept(indices[j], rest)
    return [x for x in kept if x is not None]
