"""What changed from one run of a bench to another."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otprune.errors import OTPruneError
from otprune_bench.runs.report import RESULTS, table


@dataclass(frozen=True)
class Number:
    """A figure of a run, and how far it may be off: range of the runs, or two standard errors."""

    value: float
    low: float
    high: float


def compare(before: Path, after: Path, least: float = 0.01, rows: int = 40) -> str:
    """What changed, as Markdown: settings and versions first, then numbers, then failures.

    A change is called noise if the ranges of the two figures overlap: of the repeats where the
    bench gives them, of two standard errors where it gives those; a figure with neither has no
    range.

    Args:
        before: folder of a run.
        after: folder of another run of the same bench.
        least: smaller relative changes are left out.
        rows: at most so many numbers are shown, the largest relative changes first.

    Raises:
        OTPruneError: a folder has no results, or the runs have no case in common.
    """
    a, b = _load(before), _load(after)
    common = [case for case in a["results"] if case in b["results"]]
    if not common:
        raise OTPruneError(
            f"{before} and {after} have no case in common: expected two runs of one bench"
        )
    parts = [f"# From {before} to {after}", _around(a, b), _numbers(a, b, common, least, rows)]
    parts += [_cases(a, b, before, after), _failures(a, b, common)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _load(folder: Path) -> dict[str, Any]:
    try:
        whole: dict[str, Any] = json.loads((folder / RESULTS).read_text())
    except OSError:
        raise OTPruneError(f"{folder} has no {RESULTS}: expected a bench's folder") from None
    except json.JSONDecodeError as error:
        raise OTPruneError(f"{folder / RESULTS} is not JSON: {error}") from None
    return whole


def _around(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Settings, environment, command and date, where they differ."""
    rows = []
    for group in ("settings", "environment"):
        for name in dict.fromkeys([*a[group], *b[group]]):
            old, new = a[group].get(name), b[group].get(name)
            if old != new:
                rows.append((name, old, new))
    rows += [(name, a[name], b[name]) for name in ("command", "date") if a[name] != b[name]]
    return table(["", "A", "B"], rows) if rows else "Settings and environment are the same."


def _numbers(
    a: dict[str, Any], b: dict[str, Any], common: list[str], least: float, rows: int
) -> str:
    changed, same = [], 0
    for case in common:
        old, new = (dict(_walk(x["results"][case])) for x in (a, b))
        for name in old.keys() & new.keys():
            change = _change(old[name].value, new[name].value)
            if abs(change) > least:
                changed.append((abs(change), case, name, old[name], new[name], change))
            else:
                same += 1
    changed.sort(key=lambda row: (-row[0], row[1], row[2]))
    said = f"{len(changed)} of {len(changed) + same} numbers changed by more than {least:.2%}."
    if len(changed) > rows:
        said += f" The {rows} largest changes:"
    shown = [
        (
            f"{case}: {name}",
            f"{old.value:.4g}",
            f"{new.value:.4g}",
            f"{change:+.1%}" if math.isfinite(change) else "new",
            "noise" if old.low <= new.high and new.low <= old.high else "",
        )
        for _, case, name, old, new, change in changed[:rows]
    ]
    if not shown:
        return said
    return f"{said}\n\n{table(['number', 'A', 'B', 'change', ''], shown)}"


def _change(old: float, new: float) -> float:
    if old == new:
        return 0.0
    return (new - old) / abs(old) if old else math.inf


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Number]]:
    """Every number in nested mappings, by its path; lists (single runs, curves) are left out."""
    if isinstance(value, dict):
        if {"median", "low", "high"} <= value.keys():
            numbers = [value[key] for key in ("median", "low", "high")]
            if all(_is_number(x) for x in numbers):
                yield path, Number(*map(float, numbers))
            return
        error = value.get("standard_error")
        for key, item in value.items():
            if key == "standard_error":
                continue
            below = f"{path}.{key}" if path else key
            if _is_number(item):
                margin = 2.0 * error if isinstance(error, (int, float)) else 0.0
                yield below, Number(item, item - margin, item + margin)
            else:
                yield from _walk(item, below)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cases(a: dict[str, Any], b: dict[str, Any], before: Path, after: Path) -> str:
    lines = []
    for one, other, folder in ((a, b, before), (b, a, after)):
        alone = [case for case in one["results"] if case not in other["results"]]
        if alone:
            lines.append(f"Only in {folder}: {', '.join(alone)}.")
    return "\n\n".join(lines)


def _failures(a: dict[str, Any], b: dict[str, Any], common: list[str]) -> str:
    lines = []
    for case in common:
        old, new = (
            x["results"][case].get("failed") if isinstance(x["results"][case], dict) else None
            for x in (a, b)
        )
        if old is None and new is not None:
            lines.append(f"- {case} fails now: {new}")
        elif old is not None:
            lines.append(f"- {case} {'still fails' if new is not None else 'no longer fails'}")
    return "\n".join(lines)
