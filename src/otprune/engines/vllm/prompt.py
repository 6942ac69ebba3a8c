"""Placeholders and positions of a pruned prompt: pure functions that need no vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

AXES = 3  # time, row, column
DIGITS = 2
BASE = 128  # whole numbers to 256 are exact in bfloat16


def run_lengths(is_token: Sequence[bool]) -> list[int]:
    """Lengths of the unbroken runs of placeholders: one for an image, or one for each frame."""
    return [len(list(run)) for own, run in groupby(is_token) if own]


def shorten(ids: Sequence[int], is_token: Sequence[bool], k: int) -> list[int]:
    """An image's part of the prompt with `k` placeholders in each run; text within it stays.

    Args:
        ids: ids of the image's part of the prompt.
        is_token: which of them are placeholders.
        k: from 1 to the length of the shortest run.
    """
    left = k
    kept = []
    for token, own in zip(ids, is_token, strict=True):
        left = left - 1 if own else k
        if not own or left >= 0:
            kept.append(token)
    return kept


@dataclass(frozen=True)
class Place:
    """Where a pruned set of tokens is in the shortened prompt: a run of `k` of its `m` tokens."""

    offset: int
    k: int
    m: int


def full_prompt(ids: Sequence[int], places: Sequence[Place]) -> tuple[list[int], Tensor]:
    """The prompt before pruning, and the column there of each token of the shortened prompt.

    Which tokens of a set are kept is not known yet: all of them get the set's first column.

    Args:
        ids: `(n,)` ids of the shortened prompt.
        places: pruned sets, in prompt order.

    Returns:
        `(N,)` ids and `(n,)` int64 columns.
    """
    full: list[int] = []
    columns: list[Tensor] = []
    start = 0
    for place in places:
        columns.append(torch.arange(len(full), len(full) + place.offset - start))
        full += ids[start : place.offset]
        columns.append(torch.full((place.k,), len(full)))
        full += [ids[place.offset]] * place.m
        start = place.offset + place.k
    columns.append(torch.arange(len(full), len(full) + len(ids) - start))
    full += ids[start:]
    return full, torch.cat(columns)


def shifted(offset: int, places: Sequence[Place]) -> int:
    """The column in the full prompt of a column of the shortened one, which is in no pruned set."""
    return offset + sum(place.m - place.k for place in places if place.offset < offset)


def grid_offsets(indices: Tensor, height: int, width: int, rate: float) -> Tensor:
    """Time, row and column of tokens in their set, `(3, k)` int64.

    Args:
        indices: `(k,)` places in the set, whose order is frame by frame, row by row.
        height, width: of a frame, in tokens.
        rate: steps of time from one frame to the next; fractions of a step are cut off.
    """
    frame = indices // (height * width)
    # float64, as in vLLM: rounded otherwise, a frame could land on the next step.
    return torch.stack([(frame.double() * rate).long(), indices // width % height, indices % width])


def with_offsets(features: Tensor, offsets: Tensor) -> Tensor:
    """Features `(k, d)` with six more columns: the offsets `(3, k)` of each token.

    Each offset is written as two digits of base 128, exact in bfloat16 for offsets up to 32767.
    """
    digits = torch.stack([offsets // BASE, offsets % BASE], dim=-1).transpose(0, 1).flatten(1)
    return torch.cat([features, digits.to(features)], dim=1)


def without_offsets(features: Tensor) -> tuple[Tensor, Tensor]:
    """The reverse of `with_offsets`: features `(k, d)`, and offsets `(3, k)` int64."""
    digits = features[:, -AXES * DIGITS :].long().unflatten(1, (AXES, DIGITS))
    return features[:, : -AXES * DIGITS], (digits[..., 0] * BASE + digits[..., 1]).T
