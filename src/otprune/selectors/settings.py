"""Checks of the settings of methods, and the settings for a reader."""

from __future__ import annotations

import math
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

from otprune.errors import OTPruneError
from otprune.selectors.cues import CUES


def shown(selector: Any) -> dict[str, Any]:
    """The settings of a selector by name, without `keep` and without shares of 0 of a cue."""
    own = {f.name: getattr(selector, f.name) for f in fields(selector) if f.name != "keep"}
    return {name: value for name, value in own.items() if name not in CUES or value != 0}


def number(selector: Any, name: str, least: float, most: float = math.inf) -> None:
    """Check a setting of a frozen selector, and store it as a float.

    Args:
        name: of the attribute.
        least, most: the range, inclusive.

    Raises:
        OTPruneError: it is no finite number in the range.
    """
    value: Any = getattr(selector, name)
    good = not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    if not good or not least <= float(value) <= most:
        high = f" and <= {most:g}" if math.isfinite(most) else ""
        raise OTPruneError(f"{name}={value!r}: expected a number >= {least:g}{high}")
    object.__setattr__(selector, name, float(value))


def whole(selector: Any, name: str) -> None:
    """Check that a setting of a frozen selector is a whole number >= 1, and store it as an int.

    Raises:
        OTPruneError: it is not.
    """
    value: object = getattr(selector, name)
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise OTPruneError(f"{name}={value!r}: expected a whole number >= 1")
    object.__setattr__(selector, name, int(value))
