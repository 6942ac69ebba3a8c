"""Checks of a selector's arguments, and their conversion to batches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from otprune.checks import check_finite, check_shape
from otprune.errors import (
    CueError,
    KeepError,
    SelectorError,
    TokenError,
    UnsupportedError,
    WeightError,
)
from otprune.keep import Auto, Budget, check_rule
from otprune.numerics.arrays import host_readable
from otprune.selectors.batches import Batch
from otprune.selectors.cues import Cue, Cues

if TYPE_CHECKING:
    from otprune.selectors.base import Selector


def check_cues(selector: Any, given: Collection[Cue], where: str = "") -> None:
    """Check that a method is given every cue that it needs, and none that it does not use.

    Args:
        selector: a selector, or any object; without `uses` and `needs` it uses no cues.
        given: names of the given cues.
        where: for the message, the place that cannot provide a cue; none if it is up to the caller.

    Raises:
        WeightError: weights are given and not used, or needed and not given.
        CueError: the same of another cue, by the caller.
        UnsupportedError: another cue is needed in a place that cannot provide it.
    """
    from otprune.selectors.registry import METHODS  # which imports every method

    name = type(selector).__name__
    uses: Collection[Cue] = getattr(selector, "uses", ())
    needs: Collection[Cue] = getattr(selector, "needs", ())
    for cue in sorted(set(given) - set(uses)):
        able = sorted(cls.__name__ for cls in METHODS.values() if cue in cls.uses)
        other = f", or use {', '.join(able)}" if able else ""
        if cue == "weights":
            raise WeightError(f"{name} has no meaning for weights: leave them out{other}")
        raise CueError(
            f"{name} does not use {cue}: leave it out (cues.only(selector.uses) does){other}"
        )
    missing = sorted(set(needs) - set(given))
    others = [cue for cue in missing if cue != "weights"]
    if others and where:
        raise UnsupportedError(
            f"{name} needs {' and '.join(others)}, which cannot be provided {where}: use a method "
            "that does without"
        )
    if others:
        fields = ", ".join(f"{cue}=..." for cue in others)
        raise CueError(f"{name} needs {' and '.join(others)}: pass cues=otprune.Cues({fields})")
    if missing:
        raise WeightError(f"{name} needs weights, one a token: pass weights=")


def checked_keep(selector: Selector) -> float | int | Auto | Budget:
    """`keep` as `check_rule` gives it.

    Raises:
        KeepError: it is neither a number nor a rule, or needs a certificate that the method does
            not have.
    """
    from otprune.selectors.registry import METHODS  # which imports every method

    keep = check_rule(selector.keep)
    if isinstance(keep, Auto) and keep.measure == "certificate" and not selector.certifies:
        able = sorted(cls.__name__ for cls in METHODS.values() if cls.certifies)
        raise KeepError(
            f"{type(selector).__name__} has no certificate: use measure='distance', or one of "
            f"{', '.join(able)}"
        )
    return keep


def _check_settled(selector: Selector) -> None:
    """Check `keep` once more: `__post_init__` of a subclass may not have called its parent's.

    Raises:
        KeepError: as `checked_keep`.
        SelectorError: `keep` was not converted.
    """
    keep = checked_keep(selector)
    if not isinstance(selector.keep, type(keep)):
        name = type(selector).__name__
        raise SelectorError(
            f"keep={selector.keep!r} was not made {keep!r}: {name}.__post_init__ must call "
            "super().__post_init__()"
        )


def admit(selector: Selector, tokens: Any, weights: Any, cues: Cues | None = None) -> Batch:
    """Tokens `(m, d)` or `(B, m, d)` and their cues as one batch; one set is a batch of B = 1.

    Raises:
        TokenError: the tokens are not a finite floating array of that shape.
        CueError: a cue does not fit, is not used, or is missing; WeightError for weights.
        KeepError, SelectorError: `keep` was left unchecked by a subclass, and is wrong.
    """
    _check_settled(selector)
    known = _together(weights, cues)
    check_cues(selector, known.names)
    x = check_shape(tokens)
    if not (selector.checks_finite and _picks_of(selector, x) and host_readable(x)):
        check_finite(x)
    checked = known.checked(x)
    return Batch(x if x.ndim == 3 else x.unsqueeze(0), checked)


def admit_sets(
    selector: Selector, sets: Iterable[Any], weights: Any, cues: Sequence[Cues | None] | None = None
) -> list[Batch]:
    """Several sets, `(m_i, d)` each, as one batch a set.

    Args:
        weights, cues: one entry for each set, or None.

    Raises: as `admit`; TokenError also for a batch among the sets.
    """
    given = list(sets)
    each = [None] * len(given) if weights is None else list(weights)
    if len(each) != len(given):
        raise WeightError(f"weights for {len(each)} sets, and there are {len(given)}")
    if isinstance(cues, Cues):
        raise CueError("cues is one Cues for several sets: pass a list, one entry for each set")
    known = [None] * len(given) if cues is None else list(cues)
    if len(known) != len(given):
        raise CueError(f"cues for {len(known)} sets, and there are {len(given)}")
    for x in given:
        if getattr(x, "ndim", 2) != 2:
            raise TokenError(f"a set of tokens has shape {tuple(x.shape)}: expected (m, d)")
    return [admit(selector, *one) for one in zip(given, each, known, strict=True)]


def _together(weights: Any, cues: Cues | None) -> Cues:
    """Cues with the weights that were given beside them."""
    if cues is None:
        return Cues(weights=weights)
    if not isinstance(cues, Cues):
        raise CueError(
            f"cues is a {type(cues).__name__}: expected otprune.Cues(...), a list of them for "
            "several sets"
        )
    if weights is None:
        return cues
    if cues.weights is not None:
        raise WeightError("weights are given twice, by weights= and in cues: give them once")
    return replace(cues, weights=weights)


def _picks_of(selector: Selector, tokens: Tensor) -> bool:
    """Whether `pick` will be called with all these tokens: `keep` is no rule and keeps fewer."""
    m = tokens.shape[-2]
    return isinstance(selector.keep, (float, int)) and selector.count(m) < m
