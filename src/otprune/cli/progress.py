"""A progress spinner on stderr."""

from __future__ import annotations

from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from otprune.cli.console import console


class Steps:
    """Shows the current step, the time so far, and how many of the images are done.

    Only on a terminal, where it is erased at the end.
    """

    def __init__(self, images: int) -> None:
        columns: list[ProgressColumn] = [SpinnerColumn(), TimeElapsedColumn()]
        if images > 1:
            columns += [BarColumn(bar_width=24), MofNCompleteColumn()]
        terminal = console(stderr=True)
        self._bar = Progress(
            *columns,
            TextColumn("{task.description}", markup=False),
            console=terminal,
            transient=True,
            disable=not terminal.is_terminal,
        )
        self._task = self._bar.add_task("looking at the images", total=images)

    def __enter__(self) -> Steps:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def doing(self, what: str) -> None:
        """Show the name of the current step."""
        self._bar.update(self._task, description=what)

    def done(self) -> None:
        """Count one more image as done."""
        self._bar.advance(self._task)
