"""From `keep` to a number of tokens: the one place where a ratio becomes a count.

A ratio or a number settles the count before any feature exists. `Auto` and `Budget` are rules: what
they keep of an image depends on its tokens, or on those of other images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Literal, get_args

from otprune.errors import KeepError, TokenError

_HOW = "give a ratio in (0, 1] as a float, or a number of tokens >= 1 as an int"

Measure = Literal["distance", "certificate"]
TARGETS: dict[Measure, float] = {"distance": 0.1, "certificate": 0.9}


@dataclass(frozen=True)
class Auto:
    """The fewest tokens of each image that reach a target.

    Attributes:
        target: for "distance" the largest squared 2-Wasserstein distance allowed between all tokens
            and the kept ones, mass free, tokens at unit length (so that it is relative: 1 is the
            mean squared norm); the default, 0.1, keeps about a tenth of the embedded model's tokens
            on ordinary images. Other encoders have other scales. For "certificate" the least
            share, 0.9 if not given, of what any `max_keep` tokens could be worth to the method.
        measure: "distance" for any method, "certificate" for those that have one.
        max_keep: ratio or number; the largest number kept, also where it does not reach the target.

    Raises:
        KeepError: an attribute is not what it says here.
    """

    target: float | None = None
    measure: Measure = "distance"
    max_keep: float | int = 0.5

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            raise KeepError(f'measure={self.measure!r}: expected "distance" or "certificate"')
        target: object = TARGETS[self.measure] if self.target is None else self.target
        most = 1.0 if self.measure == "certificate" else math.inf
        if (
            isinstance(target, bool)
            or not isinstance(target, Real)
            or not 0 < float(target) <= most
        ):
            limits = "in (0, 1]" if self.measure == "certificate" else "> 0, usually below 1"
            raise KeepError(
                f"target={target!r}: for measure={self.measure!r} give a number {limits}"
            )
        object.__setattr__(self, "target", float(target))
        object.__setattr__(self, "max_keep", check_keep(self.max_keep))


@dataclass(frozen=True)
class Budget:
    """One total for several images or frames, spent where it reduces the cost most.

    The cost is the sum of squared distances of all tokens to their nearest kept one, tokens at unit
    length: see `share`.

    Attributes:
        total: a ratio of all tokens, or a number; it is used up.
        floor: the least number kept of every image (all tokens of an image that has fewer).

    Raises:
        KeepError: `total` is neither, or `floor` is not a whole number >= 1.
    """

    total: float | int
    floor: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", check_keep(self.total))
        floor: object = self.floor
        if isinstance(floor, bool) or not isinstance(floor, Integral) or int(floor) < 1:
            raise KeepError(f"floor={floor!r}: expected a number of tokens an image, 1 or more")
        object.__setattr__(self, "floor", int(floor))


Keep = float | int | Literal["auto"] | Auto | Budget


def check_keep(keep: object) -> float | int:
    """`keep` as a plain `float` (ratio) or `int` (number of tokens).

    The type decides: `1.0` keeps everything, `1` keeps one token. numpy's numbers count as what
    they are; `bool` is refused, since `True` is more likely a mistake than one token.

    Raises:
        KeepError: `keep` is neither a ratio in (0, 1] nor a whole number >= 1.
    """
    if isinstance(keep, (Auto, Budget)) or (isinstance(keep, str) and keep == "auto"):
        raise KeepError(
            f"keep={keep!r} depends on the tokens, and here the number must be known before "
            f"there are any: {_HOW}"
        )
    if isinstance(keep, bool) or not isinstance(keep, Real):
        raise KeepError(f"keep is {keep!r} of type {type(keep).__name__}: {_HOW}")
    if isinstance(keep, Integral):
        if keep < 1:
            raise KeepError(f"keep={keep} would leave no token: {_HOW}")
        return int(keep)
    ratio = float(keep)
    if ratio > 1:
        hint = f" (for a number of tokens write keep={int(ratio)})" if ratio.is_integer() else ""
        raise KeepError(f"keep={ratio} is more than everything: {_HOW}{hint}")
    if not ratio > 0:  # also NaN
        raise KeepError(f"keep={ratio} would leave no token: {_HOW}")
    return ratio


def count(keep: float | int, m: int) -> int:
    """Number of tokens kept of `m`: exact, and known before any feature exists.

    A ratio keeps `max(1, round(keep * m))` (Python's `round`: halves go to the even number); a
    number keeps that many; never more than `m`.

    Raises:
        KeepError: see `check_keep`.
        TokenError: `m` is less than one.
    """
    keep = check_keep(keep)
    if m < 1:
        raise TokenError(f"there are {m} tokens to choose from: expected at least one")
    wanted = keep if isinstance(keep, int) else max(1, round(keep * m))
    return min(wanted, int(m))


def check_rule(keep: object) -> float | int | Auto | Budget:
    """`keep` as a selector takes it: a number, see `check_keep`, or a rule; "auto" is `Auto()`.

    Raises:
        KeepError: it is neither.
    """
    if isinstance(keep, (Auto, Budget)):
        return keep
    return Auto() if isinstance(keep, str) and keep == "auto" else check_keep(keep)


def share(costs: Sequence[Sequence[float]], total: int, floor: int = 1) -> list[int]:
    """How many of `total` tokens each image keeps, so that the summed cost is least.

    Each token goes to the image whose cost falls most by it, to the earlier one if equal. Costs are
    replaced by their convex minorant first, so that the result is optimal except for the image at
    which the total runs out. Costs of a greedy selection of this very objective are convex already.

    Args:
        costs: `costs[i][k - 1]`, of image i when it keeps k; as long as it may keep at most.
        total: at least what the floors take.
        floor: so many are kept of every image at least, or all that it may keep.

    Returns:
        One number an image; their sum is `total`, or all that the images may keep.

    Raises:
        KeepError: the floors take more than the total.
    """
    kept = [min(floor, len(cost)) for cost in costs]
    left = total - sum(kept)
    if left < 0:
        raise KeepError(
            f"a total of {total} tokens for {len(costs)} images, which take {sum(kept)} at least "
            f"(floor={floor}): raise the total, or lower the floor"
        )
    falls = [
        (-fall, i)
        for i, cost in enumerate(costs)
        for fall in _even_falls([float(c) for c in cost[kept[i] - 1 :]])
    ]
    for _, i in sorted(falls)[:left]:
        kept[i] += 1
    return kept


def _even_falls(cost: list[float]) -> list[float]:
    """What the convex minorant of a sequence falls by from entry to entry; never grows."""
    corners: list[int] = []
    for k, value in enumerate(cost):
        while len(corners) > 1:
            a, b = corners[-2:]
            if (cost[a] - cost[b]) * (k - b) > (cost[b] - value) * (b - a):
                break
            corners.pop()
        corners.append(k)
    return [(cost[a] - cost[b]) / (b - a) for a, b in pairwise(corners) for _ in range(b - a)]
