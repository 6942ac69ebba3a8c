"""Two choices beside each other: equal, a near tie, or different."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from otprune.selectors import Cues
from otprune_bench.gpu.objectives import value
from otprune_bench.gpu.plan import NEAR

Compared = dict[str, Any]


def compare(
    selector: Any, tokens: Tensor, cues: Cues, expected: Tensor, found: Tensor, where: str = ""
) -> Compared:
    """How the kept sets of a batch agree with those that are expected.

    Args:
        tokens: `(B, m, d)`, what both chose from.
        cues: of the batch, fields `(B, ...)`.
        expected, found: `(B, k)`.
        where: said of each difference.

    Returns:
        `sets` and `equal`, numbers of sets; `ties`, what is known of each that differs: tokens that
        one alone has, both objectives in float64, their relative difference, and whether that makes
        it a near tie; `agrees`: every difference is one.
    """
    ties = []
    for b, (ours, theirs) in enumerate(zip(found.cpu(), expected.cpu(), strict=True)):
        if not ours.equal(theirs):
            exact = tokens[b].detach().cpu().double()
            known = cues.each(lambda x, b=b: x[b : b + 1].cpu().double())  # type: ignore[misc]
            ties.append(difference(selector, exact, known, theirs, ours, f"{where} set {b}"))
    return {
        "sets": len(found),
        "equal": len(found) - len(ties),
        "ties": ties,
        "agrees": all(tie["near"] for tie in ties),
    }


def difference(
    selector: Any, tokens: Tensor, cues: Cues, expected: Tensor, found: Tensor, where: str
) -> dict[str, Any]:
    """Two different sets of one image, and their objectives."""
    values = [value(selector, tokens, kept, cues) for kept in (expected, found)]
    relative = None
    if values[0] is not None and values[1] is not None:
        size = max(abs(values[0]), abs(values[1]), torch.finfo(torch.float64).tiny)
        relative = (values[1] - values[0]) / size
    first, second = set(expected.tolist()), set(found.tolist())
    return {
        "where": " ".join(where.split()),
        "only expected": sorted(first - second),
        "only found": sorted(second - first),
        "expected value": values[0],
        "found value": values[1],
        "relative": relative,
        "near": relative is not None and abs(relative) <= NEAR,
    }


def together(several: Iterable[Compared]) -> Compared:
    """Several comparisons as one."""
    made = list(several)
    return {
        "sets": sum(one["sets"] for one in made),
        "equal": sum(one["equal"] for one in made),
        "ties": [tie for one in made for tie in one["ties"]],
        "agrees": all(one["agrees"] for one in made),
    }
