"""From `keep` to a number of tokens: the one place where a ratio becomes a count."""

from __future__ import annotations

from numbers import Integral, Real

from otprune.errors import KeepError, TokenError

_HOW = "give a ratio in (0, 1] as a float, or a number of tokens >= 1 as an int"


def check_keep(keep: object) -> float | int:
    """`keep` as a plain `float` (ratio) or `int` (number of tokens).

    The type decides: `1.0` keeps everything, `1` keeps one token. numpy's numbers count as what
    they are; `bool` is refused, since `True` is more likely a mistake than one token.

    Raises:
        KeepError: `keep` is neither a ratio in (0, 1] nor a whole number >= 1.
    """
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
