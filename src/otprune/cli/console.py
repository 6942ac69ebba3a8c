"""Terminal output: plain text, and tables whose figures are never truncated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from shutil import get_terminal_size
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Cell = str | Text
# For typer: in a narrow terminal its panels cut the names of options, plain help does not.
HELP: Literal["rich"] | None = "rich" if get_terminal_size().columns >= 80 else None


def console(stderr: bool = False) -> Console:
    """The console that all output uses; text is never read as markup or emoji codes."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show(*parts: RenderableType) -> None:
    """Print. Lines that are wider than the terminal are not cut: the terminal wraps them."""
    out = console()
    for part in parts:
        out.print(part, crop=False)


class Words:
    """Text with line breaks only between words: rich would break inside paths and figures."""

    def __init__(self, text: Text, indent: int = 0) -> None:
        """`indent` is the number of blanks before the second and later lines."""
        self._text, self._indent = text, indent

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for line in self._text.split(allow_blank=True):
            starts: list[int] = []
            used = 0
            for word in re.finditer(r"\s*\S+", line.plain):
                width = cell_len(word[0])
                if used and used + width > options.max_width:
                    starts.append(word.end() - len(word[0].lstrip()))
                    width = cell_len(word[0].lstrip())
                    used = self._indent
                used += width
            for i, part in enumerate(line.divide(starts)):
                part.rstrip()
                part.pad_left(self._indent if i else 0)
                part.no_wrap, part.overflow = True, "ignore"
                yield part


class Figures:
    """Rows of figures under headings, as a table if it fits the terminal, else as a list.

    A truncated figure would be wrong, so none is truncated or broken. Columns in `wraps` break
    between words, the others not at all. If the table is too wide for the terminal, each figure is
    printed on its own line.
    """

    def __init__(
        self,
        headings: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        *,
        wraps: Sequence[int] = (),
        styles: Sequence[str] = (),
        least: Sequence[int] = (),
        tight: bool = False,
    ) -> None:
        """Args:
        headings: one for each column; all empty for no headings. The first column names the rows.
        rows: one cell for each column, which may be empty.
        wraps: columns that may break between words.
        styles: of the first columns; the others are plain.
        least: minimum widths of the first columns.
        tight: one blank between columns instead of two.
        """
        n = len(headings)
        self._headings = [Text(heading) for heading in headings]
        self._rows = [[c if isinstance(c, Text) else Text(c) for c in row] for row in rows]
        self._wraps = set(wraps)
        self._tight = tight
        self._styles = [*styles, *[""] * (n - len(styles))]
        self._least = [*least, *[0] * (n - len(least))]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        columns = list(zip(self._headings, *self._rows, strict=True))
        wanted = [max(cell_len(cell.plain) for cell in column) for column in columns]
        whole = [
            max(_longest(cell, i in self._wraps) for cell in column)
            for i, column in enumerate(columns)
        ]
        roomy = [max(width, least) for width, least in zip(whole, self._least, strict=True)]
        for widths, blanks in ((roomy, 1 if self._tight else 2), (whole, 1)):
            table = self._table(widths, blanks)
            needed = Measurement.get(console, options.update(max_width=10_000), table).minimum
            if needed <= options.max_width:
                yield self._table(_widened(widths, wanted, options.max_width - needed), blanks)
                return
        yield from self._list()

    def _table(self, widths: Sequence[int], blanks: int) -> Table:
        titled = any(heading.plain for heading in self._headings)
        table = Table(
            box=SIMPLE_HEAD if titled else None,
            show_header=titled,
            pad_edge=False,
            show_edge=False,
            padding=(0, 1) if blanks == 2 else (0, 1, 0, 0),
        )
        for heading, width, style in zip(self._headings, widths, self._styles, strict=True):
            table.add_column(heading, width=width, style=style)
        for row in self._rows:
            table.add_row(*row)
        return table

    def _list(self) -> Iterator[RenderableType]:
        for name, *cells in self._rows:
            label = Text(name.plain.strip(), name.style)
            filled = [(h, c) for h, c in zip(self._headings[1:], cells, strict=True) if c.plain]
            if len(filled) == 1 and not filled[0][0].plain:
                yield Words(Text.assemble(label, ": ", filled[0][1]), 4)
                continue
            yield Words(label)
            for heading, cell in filled:
                before = f"  {heading.plain}: " if heading.plain else "  "
                yield Words(Text.assemble(before, cell), 4)


def _longest(cell: Text, wraps: bool) -> int:
    parts = cell.plain.split() if wraps else [cell.plain]
    return max((cell_len(part) for part in parts), default=0)


def _widened(widths: Sequence[int], wanted: Sequence[int], spare: int) -> list[int]:
    """The widths with `spare` distributed, each unit to the narrowest column that wants more."""
    widths = list(widths)
    while spare:
        short = [i for i, width in enumerate(widths) if width < wanted[i]]
        if not short:
            break
        widths[min(short, key=widths.__getitem__)] += 1
        spare -= 1
    return widths
