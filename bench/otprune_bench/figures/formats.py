"""Estimates and names as reports show them."""

from __future__ import annotations

from collections.abc import Sequence

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
