"""Estimates and names as reports show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otprune_bench.figures.statistics import Estimate


def percent(estimate: Estimate) -> str:
    """A share and its standard error, in percent."""
    return f"{100 * estimate.value:.1f} ± {100 * estimate.error:.1f}"


def in_points(estimate: Estimate) -> str:
    """A difference of shares and its standard error, in points."""
    return f"{100 * estimate.value:+.1f} ± {100 * estimate.error:.1f}"


def number(estimate: Estimate) -> str:
    """A figure and its standard error."""
    return f"{estimate.value:.3f} ± {estimate.error:.3f}"


def pair(estimate: Estimate) -> list[float]:
    """Value and standard error as JSON holds them."""
    return [round(estimate.value, 5), round(estimate.error, 5)]


def quoted(of: Sequence[str]) -> str:
    """`a`, `b`."""
    return ", ".join(f"`{name}`" for name in of)


def spread_text(spread: dict[str, Any], factor: float = 1.0, digits: int = 3) -> str:
    """Median of some runs, least and most in brackets."""
    middle, low, high = (factor * spread[key] for key in ("median", "low", "high"))
    return f"{middle:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def mebibytes(number: float | None) -> str:
    """Bytes in MiB; - where there is no figure."""
    return "-" if number is None else f"{number / 2**20:.4g}"
