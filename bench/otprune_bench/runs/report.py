"""A run's folder: `results.json` with every number, `report.md`, plots."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from otprune.errors import MissingDependencyError
from otprune_bench.runs.environment import environment
from otprune_bench.runs.json_values import json_value

RESULTS, REPORT = "results.json", "report.md"

# Okabe and Ito: distinguishable with any kind of colour vision, and in print.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"),
    *("#56B4E9", "#000000", "#8C8C8C", "#882255", "#999933"),
)


def write_report(
    folder: Path, results: dict[str, Any], markdown: str, settings: dict[str, Any]
) -> None:
    """Write `results.json` and `report.md`.

    Args:
        folder: the run's, made if it is not there.
        results: case to result, as from `run_cases`.
        markdown: the report; date, command, settings and machine are put at its end.
        settings: what the bench was asked for, the seed among it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "settings": json_value(settings),
        "environment": environment(),
    }
    whole = {**about, "results": json_value(results)}
    (folder / RESULTS).write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    (folder / REPORT).write_text(f"{markdown.rstrip()}\n\n{_colophon(about)}")


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 1) -> str:
    """A Markdown table; columns from the `numbers`-th on are set to the right."""
    lines = [head, ["---" if i < numbers else "---:" for i in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


@contextmanager
def figure(folder: Path, name: str, size: tuple[float, float] = (7.5, 4.5)) -> Iterator[Any]:
    """Matplotlib axes to draw on; saved as `folder/name.png` when the block ends without error.

    Args:
        folder: the run's, made if it is not there.
        name: of the file, without its suffix.
        size: in inches, at 140 dots each.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    with panels(folder, name, 1, 1, size) as (axes,):
        yield axes


@contextmanager
def panels(
    folder: Path, name: str, rows: int, columns: int, size: tuple[float, float]
) -> Iterator[list[Any]]:
    """As `figure`, with `rows * columns` axes, row by row."""
    check_plots()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: neither its global state nor a display's backend is wanted here.
    drawn = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(drawn)
    grid = list(drawn.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_prop_cycle(color=COLORS)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    yield grid
    folder.mkdir(parents=True, exist_ok=True)
    drawn.savefig(folder / f"{name}.png", dpi=140)


def check_plots() -> None:
    """Raise before a bench runs for minutes, and not at its plots.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as cause:
        raise MissingDependencyError(
            "plots need matplotlib, which is not installed: pip install matplotlib"
        ) from cause


def _colophon(about: dict[str, Any]) -> str:
    settings = ", ".join(f"{key} {_said(value)}" for key, value in about["settings"].items())
    machine = ", ".join(
        f"{key} {value}" for key, value in about["environment"].items() if value is not None
    )
    lines = [
        "## How this was made",
        "",
        f"- {about['date'][:10]}, `{about['command']}`",
        f"- settings: {settings}",
        f"- machine and versions: {machine}",
        f"- every number: [{RESULTS}]({RESULTS})",
    ]
    return "\n".join(lines) + "\n"


def _program() -> list[str]:
    """How this process was started: as `otprune`, or as a bench's own module."""
    main = getattr(sys.modules["__main__"], "__spec__", None)
    name = getattr(main, "name", "").removesuffix(".__main__")
    return ["python", "-m", name] if name.startswith("otprune_bench.") else ["otprune"]


def _said(value: Any) -> str:
    return re.sub(r"[\[\]{}\"]", "", json.dumps(value)) or "none"
