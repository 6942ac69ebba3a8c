"""The table of methods."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from otprune.cli.console import Figures, Words
from otprune.selectors import METHODS

LEGEND = (
    "w: takes weights   c: explain gives a certificate\n"
    "n: needs more than the tokens (otprune.Cues): the question, or what the vision\n"
    "   encoder attends to"
)


def table() -> RenderableType:
    """Every method with its summary and what else it can do, one line each in 80 columns."""
    rows = [
        (
            name,
            method.summary,
            _mark(bool(method.needs)),
            _mark("weights" in method.uses),
            _mark(method.certifies),
        )
        for name, method in METHODS.items()
    ]
    figures = Figures(("method", "keeps", "n", "w", "c"), rows, wraps=(1,), styles=("bold",), tight=True)
    return Group(figures, Text(), Words(Text(LEGEND, "dim")))


def _mark(able: bool) -> str:
    return "x" if able else "-"
