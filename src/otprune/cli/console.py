"""What goes to the terminal: text as it is, and tables that are whole at every width."""

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
# Of typer: its panels cut the names of options where they have no room, plain help does not.
HELP: Literal["rich"] | None = "rich" if get_terminal_size().columns >= 80 else None


def console(stderr: bool = False) -> Console:
    """The only way to a terminal: nothing that is printed is taken for markup or emoji codes."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show(*parts: RenderableType) -> None:
    """Print; what is wider than the terminal is left whole, and the terminal itself wraps it."""
    out = console()
    for part in parts:
        out.print(part, crop=False)


class Words:
    """A text that breaks between words and nowhere else: rich would break a path or a figure."""

    def __init__(self, text: Text, indent: int = 0) -> None:
        """Take the text; `indent` is that of the lines that it goes on in."""
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
    """Rows of figures under headings: a table where every word fits whole, else a list.

    A figure that is cut is a wrong figure, so nothing is ever cut or broken: columns in `wraps`
    break between words, the others not at all, and where that is too wide for the terminal every
    figure gets a line of its own.
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
        """Take what to show.

        Args:
            headings: of the columns; all empty for none. The first column names the rows.
            rows: a cell for each column; empty where there is nothing.
            wraps: columns that may break between words.
            styles: of the columns; those left out are plain.
            least: widths of the columns that they have at least.
            tight: one blank between columns.
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
    """The narrowest columns that want more get it first."""
    widths = list(widths)
    while spare:
        short = [i for i, width in enumerate(widths) if width < wanted[i]]
        if not short:
            break
        widths[min(short, key=widths.__getitem__)] += 1
        spare -= 1
    return widths
