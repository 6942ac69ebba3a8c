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

# One row travels with every image and video: the sets in it, tokens of a set before and after, the
# method's number, merge.
Row = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Kept:
    """What is kept of one image, k tokens of each of its sets.

    indices: `(sets * k,)` places, each in the set that the token is of.
    rows: `(sets * k, d)` features.
    """

    indices: Tensor
    rows: Tensor


def row_of(sets: int, m: int, k: int, method: str, merge: bool) -> Tensor:
    """`(5,)` int64 for one image; see `Row`."""
    return torch.tensor([sets, m, k, METHOD_NAMES.index(method), int(merge)])


@torch.no_grad()
def choose(
    images: list[Tensor],
    rows: list[Row],
    width: int | None = None,
    agree: Callable[[Tensor], Tensor] = lambda x: x,
) -> list[Kept]:
    """What is kept of each image; those of one size and setting are selected in one batch.

    Args:
        images: `(sets * m, d)` each.
        rows: one for each image.
        width: number of leading features to select and merge by, None for all; the others
            (deepstack levels) follow the kept tokens.
        agree: makes a choice the same on every rank of a group.

    Raises:
        OTPruneError: an image has another number of tokens than its placeholders were counted
            from.
    """
    batches: dict[Row, list[int]] = defaultdict(list)
    for i, (image, row) in enumerate(zip(images, rows, strict=True)):
        counted = row[0] * row[1]
        if len(image) != counted:
            raise OTPruneError(
                f"the encoder made {len(image)} tokens of an image that the processor counted "
                f"as {counted}: this checkpoint's processor and encoder disagree, serve it unpruned"
            )
        batches[row].append(i)
    kept: list[Kept | None] = [None] * len(images)
    for row, members in batches.items():
        sets, m, k, method, merge = row
        if k == m:
            for i in members:
                places = torch.arange(m, device=images[i].device).repeat(sets)
                kept[i] = Kept(places, images[i])
            continue
        full = torch.stack([images[i] for i in members]).unflatten(1, (sets, m)).flatten(0, 1)
        tokens = full[..., :width]
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
        made = full.take_along_dim(indices.unsqueeze(-1), dim=1)
        if features is not None:
            made = torch.cat([features, made[..., features.shape[-1] :]], dim=-1)
        each = (len(members), sets)
        places, made = (x.unflatten(0, each).flatten(1, 2) for x in (indices, made))
        for j, i in enumerate(members):
            kept[i] = Kept(places[j], made[j])
    return [x for x in kept if x is not None]
