"""The cases of a bench, run one by one: progress is shown, and an interrupted run resumes."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from otprune.errors import OTPruneError
from otprune_bench.runs.json_values import json_value

FILE = "cases.jsonl"

Case = tuple[str, Callable[[], dict[str, Any]]]
Results = dict[str, dict[str, Any]]


def run_cases(
    folder: Path, cases: Iterable[Case], title: str, settings: dict[str, Any] | None = None
) -> Results:
    """Run the cases that `folder/cases.jsonl` does not have yet, and return the results of all.

    Each result is appended to that file as soon as it is known. A case that raises has the result
    `{"failed": "Type: message"}`; its traceback goes to the file and one line to stderr. When the
    bench is run again, failed cases are tried again and all others are taken from the file.

    Args:
        folder: of the run; made if it is not there.
        cases: `(key, function)`, run in this order, keys unique; a function returns what JSON can
            hold (numbers of numpy and torch too).
        title: of the progress bar, on stderr.
        settings: what all cases depend on (seed, sizes). A folder with cases of other settings is
            refused.

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
        task = bar.add_task("", total=len(todo))
        for key, function in todo:
            bar.update(task, description=key)
            if key not in done:
                done[key] = _run(file, key, function)
                if "failed" in done[key]:
                    print(f"{key} failed: {done[key]['failed']}", file=sys.stderr)
            bar.advance(task)
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


def _run(file: Path, key: str, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    start = time.perf_counter()
    record: dict[str, Any] = {"case": key}
    try:
        record["result"] = json_value(function())
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        record["result"] = {"failed": said}
        record["traceback"] = traceback.format_exc()
    record["seconds"] = time.perf_counter() - start
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
