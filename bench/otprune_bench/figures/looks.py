"""Colour and marker of each method, the same in all plots."""

from __future__ import annotations

from typing import Any

from otprune_bench.methods import NAMES, RANDOM
from otprune_bench.runs.report import COLORS

_MARKERS = "osD^vP<>X"
LOOKS: dict[str, dict[str, Any]] = {
    name: {"color": COLORS[i % len(COLORS)], "marker": _MARKERS[i]} for i, name in enumerate(NAMES)
}
LOOKS[RANDOM] = {"color": "#555555", "marker": "X", "linestyle": "--"}
