"""The table of methods."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from otprune.cli.console import Figures, Words
from otprune.selectors import METHODS, Selector

LEGEND = (
    "w: takes weights   c: explain gives a certificate\n"
    "n: needs more than the tokens: the question, or what the encoder attends to\n"
    "   (ask has it, select has not; in Python otprune.Cues)"
)


def table() -> RenderableType:
    """Every method with its summary and what else it can do, one line each in 80 columns."""
    rows = [(name, method.summary, _marks(method)) for name, method in METHODS.items()]
    figures = Figures(("method", "keeps", ""), rows, wraps=(1,), styles=("bold",), tight=True)
    return Group(figures, Text(), Words(Text(LEGEND, "dim")))


def _marks(method: type[Selector]) -> str:
    able = {"w": "weights" in method.uses, "c": method.certifies, "n": bool(method.needs)}
    return "".join(letter for letter, is_so in able.items() if is_so) or "-"
