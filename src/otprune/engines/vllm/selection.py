"""What is kept of all images of one encoder run, the same on every rank."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from otprune.engines.vllm.rows import Plan
from otprune.errors import OTPruneError

logger = logging.getLogger("vllm.otprune")


@dataclass(frozen=True)
class Kept:
    """What is kept of one image, k tokens of each of its sets.

    indices: `(sets * k,)` places, each in the set that the token is of.
    rows: `(sets * k, d)` features.
    """

    indices: Tensor
    rows: Tensor


@torch.no_grad()
def choose(
    images: list[Tensor],
    plans: list[Plan],
    width: int | None = None,
    agree: Callable[[Tensor], Tensor] = lambda x: x,
) -> list[Kept]:
    """What is kept of each image; images with equal plans are selected in one batch.

    Args:
        images: `(sets * m, d)` each.
        plans: one for each image.
        width: number of leading features to select and merge by, None for all; the others
            (deepstack levels) follow the kept tokens.
        agree: maps this rank's choice to that of rank 0.

    Raises:
        OTPruneError: an image has another number of tokens than its placeholders were counted
            from.
    """
    batches: dict[Plan, list[int]] = defaultdict(list)
    for i, (image, plan) in enumerate(zip(images, plans, strict=True)):
        counted = plan.sets * plan.m
        if len(image) != counted:
            raise OTPruneError(
                f"the encoder made {len(image)} tokens of an image that the processor counted "
                f"as {counted}: this checkpoint's processor and encoder disagree, serve it unpruned"
            )
        batches[plan].append(i)
    kept: list[Kept | None] = [None] * len(images)
    for plan, members in batches.items():
        sets, m, selector, merge = plan
        if plan.k == m:
            for i in members:
                places = torch.arange(m, device=images[i].device).repeat(sets)
                kept[i] = Kept(places, images[i])
            continue
        full = torch.stack([images[i] for i in members]).unflatten(1, (sets, m)).flatten(0, 1)
        tokens = full[..., :width]
        finite = tokens.isfinite()
        if not bool(finite.all()):  # an error here would stop the server
            logger.warning("otprune: the encoder made NaN or Inf; the selection takes them as 0")
            tokens = torch.where(finite, tokens, 0.0)
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
