"""Checks of a selector's arguments, and their conversion to batches."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from otprune.checks import check_finite, check_shape, check_weights
from otprune.errors import TokenError, UnsupportedError, WeightError
from otprune.numerics.arrays import host_readable
from otprune.selectors.batches import Batch
from otprune.selectors.cues import Cue, Cues

if TYPE_CHECKING:
    from otprune.selectors.base import Selector


def check_cues(selector: Any, given: Collection[Cue], where: str = "here") -> None:
    """Check that a method is given every cue that it needs, and weights only if it uses them.

    Args:
        selector: a selector, or any object; without `uses` and `needs` it uses no cues.
        given: names of the given cues.
        where: for the message, the place that cannot provide a cue.

    Raises:
        WeightError: weights are given and not used, or needed and not given.
        UnsupportedError: another cue is needed.
    """
    name = type(selector).__name__
    if "weights" in given and "weights" not in getattr(selector, "uses", ()):
        from otprune.selectors.registry import METHODS  # which imports every method

        able = sorted(cls.__name__ for cls in METHODS.values() if "weights" in cls.uses)
        raise WeightError(
            f"{name} has no meaning for weights: leave them out, or use {', '.join(able)}"
        )
    missing = set(getattr(selector, "needs", ())) - set(given)
    if missing - {"weights"}:
        raise UnsupportedError(
            f"{name} needs {' and '.join(sorted(missing - {'weights'}))}, which cannot be provided "
            f"{where}: use a method that does without"
        )
    if missing:
        raise WeightError(f"{name} needs weights, one a token: pass weights=")


def admit(selector: Selector, tokens: Any, weights: Any) -> Batch:
    """Tokens `(m, d)` or `(B, m, d)` and their weights as one batch; one set is a batch of B = 1.

    Raises:
        TokenError: the tokens are not a finite floating array of that shape.
        WeightError: the weights do not fit, are not used, or are missing.
        UnsupportedError: the method needs another cue.
    """
    check_cues(selector, [] if weights is None else ["weights"])
    x = check_shape(tokens)
    if not (selector.checks_finite and _picks_of(selector, x) and host_readable(x)):
        check_finite(x)
    w = None
    if weights is not None:
        w = check_weights(weights, tuple(x.shape[:-1])).float().to(x.device)
    if x.ndim == 2:
        x, w = x.unsqueeze(0), None if w is None else w.unsqueeze(0)
    return Batch(x, Cues(weights=w))


def admit_sets(selector: Selector, sets: Iterable[Any], weights: Any) -> list[Batch]:
    """Several sets, `(m_i, d)` each, as one batch a set.

    Args:
        weights: one entry for each set, or None.

    Raises: as `admit`; TokenError also for a batch among the sets.
    """
    given = list(sets)
    each = [None] * len(given) if weights is None else list(weights)
    if len(each) != len(given):
        raise WeightError(f"weights for {len(each)} sets, and there are {len(given)}")
    for x in given:
        if getattr(x, "ndim", 2) != 2:
            raise TokenError(f"a set of tokens has shape {tuple(x.shape)}: expected (m, d)")
    return [admit(selector, x, w) for x, w in zip(given, each, strict=True)]


def _picks_of(selector: Selector, tokens: Tensor) -> bool:
    """Whether `pick` will be called with all these tokens: `keep` is no rule and keeps fewer."""
    m = tokens.shape[-2]
    return isinstance(selector.keep, (float, int)) and selector.count(m) < m
