"""A sign of life on stderr while something takes its time."""

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
    """What is being done now, how long it has taken, and how many of the images are done.

    Shown on a terminal only and gone at the end: a log gets no spinner.
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
        """Say what comes now."""
        self._bar.update(self._task, description=what)

    def done(self) -> None:
        """One more image is finished."""
        self._bar.advance(self._task)
