"""The cases of a bench, run one by one: progress is shown, and an interrupted run resumes."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from otprune.errors import OTPruneError
from otprune_bench.runs.deadline import Deadline, SkipError
from otprune_bench.runs.json_values import json_value

FILE = "cases.jsonl"

Case = tuple[str, Callable[[], dict[str, Any]]]
Results = dict[str, dict[str, Any]]


def run_cases(
    folder: Path,
    cases: Iterable[Case],
    title: str,
    settings: dict[str, Any] | None = None,
    deadline: Deadline | None = None,
    after_each: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Run the cases that `folder/cases.jsonl` does not have yet, and return the results of all.

    Each result is appended to that file as soon as it is known. A case that raises has the result
    `{"failed": "Type: message"}`; its traceback goes to the file and one line to stderr. When the
    bench is run again, failed cases are tried again and all others are taken from the file. A case
    that raises `SkipError`, or that the deadline does not admit, has the result
    `{"skipped": reason}`, which is not written.

    Args:
        folder: of the run; made if it is not there.
        cases: `(key, function)`, run in this order, keys unique; a function returns what JSON can
            hold (numbers of numpy and torch too).
        title: of the progress bar, on stderr.
        settings: what all cases depend on (seed, sizes). A folder with cases of other settings is
            refused.
        deadline: which cases are still to be started; None for all.
        after_each: called after every case that was run, with the results so far.

    Raises:
        OTPruneError: two cases of one key, the folder's cases belong to other settings, or every
            case failed.
    """
    todo = list(cases)
    keys = [key for key, _ in todo]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise OTPruneError(f"two cases are named {twice!r}: expected one")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    done = _begin(file, json_value(settings or {}))
    old = sum(key in done for key in keys)
    if old:
        print(f"{old} of {len(keys)} cases were there already in {file}", file=sys.stderr)
    with _progress(title, len(todo)) as advance:
        for key, function in todo:
            advance(key, 0)
            if key not in done:
                done[key] = _run(file, key, function, deadline)
                if "failed" in done[key]:
                    print(f"{key} failed: {done[key]['failed']}", file=sys.stderr)
                if "skipped" not in done[key]:
                    after_each({key: done[key] for key in keys if key in done})
            advance(key, 1)
    results = {key: done[key] for key in keys}
    if keys and all("failed" in result for result in results.values()):
        raise OTPruneError(
            f"all {len(keys)} cases failed, so there is nothing to report; the first: "
            f"{results[keys[0]]['failed']} (tracebacks in {file})"
        )
    return results


def failures(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown report that name every failed case; none if no case failed."""
    failed = [(key, result["failed"]) for key, result in results.items() if "failed" in result]
    if not failed:
        return []
    lines = [f"- `{key}`: {reason}" for key, reason in failed]
    return ["## Failed", "", f"{len(failed)} of {len(results)} cases failed:", "", *lines, ""]


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar on stderr, advanced by `(key, number of cases)`; none where rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )
    except ImportError:
        yield lambda key, number: None
        return
    console = Console(stderr=True)
    with Progress(
        TextColumn(title, markup=False),  # keys and titles are text
        TimeElapsedColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda key, number: bar.update(task, description=key, advance=number)


def _run(
    file: Path, key: str, function: Callable[[], dict[str, Any]], deadline: Deadline | None
) -> dict[str, Any]:
    start = time.perf_counter()
    record: dict[str, Any] = {"case": key}
    try:
        if deadline is not None:
            deadline.check(key)
        record["result"] = json_value(function())
    except SkipError as reason:
        return {"skipped": str(reason)}
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        record["result"] = {"failed": said}
        record["traceback"] = traceback.format_exc()
    record["seconds"] = time.perf_counter() - start
    if deadline is not None:
        deadline.took(key, record["seconds"])
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")
    result: dict[str, Any] = record["result"]
    return result


def _begin(file: Path, settings: dict[str, Any]) -> Results:
    """What the file has already, without its failures; a new file starts with the settings."""
    text = file.read_text() if file.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # an interrupt may have cut the last line
    if not whole:
        file.write_text(json.dumps({"settings": settings}) + "\n")
        return {}
    if whole != text:
        file.write_text(whole)
    head, *records = (json.loads(line) for line in whole.splitlines())
    if head["settings"] != settings:
        raise OTPruneError(
            f"{file} has cases of other settings, {json.dumps(head['settings'])}, "
            "than were asked for: "
            f"{json.dumps(settings)}: delete it, or choose another folder with --out"
        )
    return {
        record["case"]: record["result"] for record in records if "failed" not in record["result"]
    }
