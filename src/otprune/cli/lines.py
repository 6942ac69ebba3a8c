"""What `otprune watch` prints: a line for each answer, and a summary; as text or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Protocol

from rich.text import Text

from otprune.asking.units import in_seconds
from otprune.cli.console import Words, console, show
from otprune.cli.watch import Answered, Totals
from otprune.errors import FrameError

HEADINGS = ("time", "kept", "memory", "frames/s", "encode", "select", "prefill", "answer")
WIDTHS = (8, 9, 8, 10, 10, 9, 9, 10)
LEGEND = (
    "time: seconds of the stream; kept: visual tokens of the frame, of how many; memory: visual "
    "tokens remembered"
)


class Lines(Protocol):
    """Where answers go."""

    def begin(self, model: str, source: str, question: str) -> None: ...
    def answered(self, one: Answered) -> None: ...
    def broken(self, error: FrameError) -> None: ...
    def end(self, totals: Totals, interrupted: bool) -> None: ...


class TextLines:
    """For people. In a narrow terminal figures have names instead of columns.

    Args:
        changes: print an answer only if it is not the one before.
    """

    def __init__(self, changes: bool) -> None:
        self._changes = changes
        self._wide = console().width >= sum(WIDTHS) + 7

    def begin(self, model: str, source: str, question: str) -> None:
        show(Words(Text.assemble((model, "bold"), "  ", (source, "bold cyan"), f'  "{question}"')))
        if self._wide:
            cells = zip(HEADINGS, WIDTHS, strict=True)
            print("".join(name.rjust(width) for name, width in cells), flush=True)

    def answered(self, one: Answered) -> None:
        if self._changes and not one.changed:
            return
        seen = one.seen
        figures = [
            f"{seen.time:.2f}",
            f"{len(seen.indices)}/{seen.before}" if seen.changed else "-",
            str(seen.remembered),
            f"{one.rate:.1f}",
            *map(in_seconds, (seen.encode, seen.select, seen.prefill, one.seconds)),
        ]
        if self._wide:
            line = "".join(x.rjust(width) for x, width in zip(figures, WIDTHS, strict=True))
            print(f"{line}  {one.answer}", flush=True)
        else:
            named = [f"{name} {x}" for name, x in zip(HEADINGS, figures, strict=True)]
            show(Words(Text("  ".join([*named, one.answer])), 4))

    def broken(self, error: FrameError) -> None:
        show(Words(Text(f"no frame: {error}"), 4))

    def end(self, totals: Totals, interrupted: bool) -> None:
        if not totals.frames:
            return
        counts = [_counted(totals.frames, "frame"), f"{totals.unchanged} of them unchanged"]
        counts += [f"{n} {name}" for name, n in _lost(totals).items() if n]
        counts += [_counted(totals.answers, "answer"), f"{_counted(totals.kept, 'token')} kept"]
        rate = f"{totals.frames / totals.seconds:.1f} frames/s"
        times = [
            f"{name} {getattr(totals, name):.2f}"
            for name in ("read", "encode", "select", "prefill", "answer", "draw")
            if getattr(totals, name) or name != "draw"
        ]
        stopped = "stopped: " * interrupted
        lines = [
            f"{stopped}{', '.join(counts)}",
            f"{totals.seconds:.2f} s, {rate}; of the seconds {', '.join(times)}",
        ]
        if totals.answers:
            lines.append(LEGEND)
        show(Text(), *(Words(Text(line, "dim")) for line in lines))


class JsonLines:
    """For programs: one object a line.

    Args:
        changes: print an answer only if it is not the one before.
    """

    def __init__(self, changes: bool) -> None:
        self._changes = changes

    def begin(self, model: str, source: str, question: str) -> None:
        self._print(kind="begin", model=model, source=source, question=question)

    def answered(self, one: Answered) -> None:
        if self._changes and not one.changed:
            return
        seen = one.seen
        self._print(
            kind="answer",
            time=seen.time,
            frame=seen.frame,
            answer=one.answer,
            tokens_before=seen.before,
            tokens_kept=len(seen.indices),
            indices=seen.indices.tolist(),
            tokens_forgotten=seen.forgotten,
            tokens_remembered=seen.remembered,
            frames_per_second=one.rate,
            encode_seconds=seen.encode,
            select_seconds=seen.select,
            prefill_seconds=seen.prefill,
            answer_seconds=one.seconds,
        )

    def broken(self, error: FrameError) -> None:
        self._print(kind="broken", error=str(error))

    def end(self, totals: Totals, interrupted: bool) -> None:
        self._print(kind="end", interrupted=interrupted, **asdict(totals))

    def _print(self, **values: object) -> None:
        print(json.dumps(values, ensure_ascii=False), flush=True)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _lost(totals: Totals) -> dict[str, int]:
    return {"broken": totals.broken, "dropped to keep up": totals.dropped}
