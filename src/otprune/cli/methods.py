"""The table of methods."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from otprune.selectors import METHODS, Selector


def table() -> Table:
    """Every method with its summary, and what else it can do."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    made.add_column("method", style="bold", no_wrap=True)
    made.add_column("keeps")
    made.add_column("weights", no_wrap=True)
    made.add_column("certificate", no_wrap=True)
    for name, method in METHODS.items():
        made.add_row(name, method.summary, _yes(method.takes_weights), _yes(certifies(method)))
    return made


def certifies(method: type[Selector]) -> bool:
    """Whether `explain` gives a certificate."""
    return method._certify is not Selector._certify


def _yes(value: bool) -> str:
    return "yes" if value else "-"
