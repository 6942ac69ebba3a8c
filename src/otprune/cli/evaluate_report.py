"""What `otprune eval` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from otprune.asking.units import in_bytes, in_seconds
from otprune.cli.console import Cell, Figures, Words
from otprune.evaluation.summary import Line

HEADINGS = ("", "keep", "tokens", "same", "right", "lost", "at most", "first token", "KV cache")


def table(model: str, lines: Sequence[Line]) -> RenderableType:
    """All settings, a row each; of times and memory the unpruned figure, then shares of it."""
    full = lines[0]
    head = Text.assemble((model, "bold"), f"  {full.examples} examples")
    if full.accuracy is not None and full.answered < full.examples:
        head.append(f", {full.answered} with known answers")
    columns = [i for i, name in enumerate(HEADINGS) if full.accuracy is not None or name != "right"]
    rows = [[row[i] for i in columns] for row in map(_row, lines)]
    return Group(Words(head), Figures([HEADINGS[i] for i in columns], rows, wraps=(0,)))


def _row(line: Line) -> Sequence[Cell]:
    accuracy = "" if line.accuracy is None else _percent(line.accuracy)
    if line.setting is None:
        seconds, cache = (
            in_seconds(line.seconds),
            in_bytes(line.cache_bytes) if line.cache_bytes else "-",
        )
        tokens = f"{line.tokens:.0f}"
        return (Text("unpruned", "bold"), "", tokens, "", accuracy, "", "", seconds, cache)
    name, keep = Text(line.setting.name, "bold"), line.setting.keep
    if not line.examples:
        return (name, keep, "none", *[""] * 6)
    return (
        *(name, keep, f"{line.tokens:.0f}", _percent(line.agreement), accuracy),
        *(_percent(line.lost), _percent(line.most_lost)),
        *(_percent(line.seconds_ratio), _percent(line.cache_ratio)),
    )


def notes(
    lines: Sequence[Line], best: Line | None, tolerance: float, unused: Sequence[str]
) -> Words:
    """The suggested keep, and what the figures mean."""
    of = "right answers" if lines[0].accuracy is not None else "the unpruned model's answers"
    if best is None or best.setting is None:
        told = [f"No setting loses at most {_percent(tolerance)} of {of}."]
    else:
        told = [
            f"Suggested: {best.setting.name}, keep {best.setting.keep}: the fewest tokens that "
            f"lose at most {_percent(tolerance)} of {of} here."
        ]
        if not best.most_lost <= tolerance:
            told.append(
                "Of one image alone no error can be given: take more."
                if math.isnan(best.most_lost)
                else f"So few examples cannot rule out that it loses {_percent(best.most_lost)}: "
                "take more of them, or a larger keep."
            )
    told += [
        f"{x.setting.key}: of {x.examples} of these examples alone."
        for x in lines
        if x.setting is not None and 0 < x.examples < lines[0].examples
    ]
    told.append(
        "Same: as the unpruned model's answer. Lost: right answers that the unpruned model has and "
        "this one has not, less those that it gains; at most, with 95% confidence."
        if lines[0].accuracy is not None
        else "Same: as the unpruned model's answer. Lost: the others; at most, with 95% confidence."
    )
    told.append(
        "First token: time from the images' pixels (encoder, selection, prefill), median, and as a "
        "share of the unpruned on the same example. KV cache: of the prompt, mean, and as a share."
    )
    if unused:
        told.append(f"Not used, fields of the data: {', '.join(unused)}.")
    return Words(Text("\n".join(told)))


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}%"
