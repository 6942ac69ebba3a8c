"""The table of methods."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from otprune.selectors import METHODS

LEGEND = "w: takes weights   c: explain gives a certificate"


def table() -> RenderableType:
    """Every method with its summary and what else it can do, one line each in 80 columns."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    made.add_column("method", style="bold", no_wrap=True)
    made.add_column("keeps")
    made.add_column("w", no_wrap=True)
    made.add_column("c", no_wrap=True)
    for name, method in METHODS.items():
        made.add_row(name, method.summary, _mark(method.takes_weights), _mark(method.certifies))
    return Group(made, Text(), Text(LEGEND, "dim"))


def _mark(able: bool) -> str:
    return "x" if able else "-"
