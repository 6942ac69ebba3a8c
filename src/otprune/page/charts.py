"""Charts in SVG and HTML: where the time goes, and what is lost with fewer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from otprune.asking.units import in_seconds
from otprune.page.figures import DISTANCES
from otprune.page.timing import Times

PARTS = {
    "encoder": "the vision encoder and projector",
    "selection": "choosing and merging tokens",
    "prefill": "the language model over the prompt, with the first token",
}
TIMED = (
    "From the image to the first token, measured here and now: medians of {repeats} calls after "
    "the answers. The encoder is run alone, the selection is timed within a call, and prefill is "
    "the rest of that call. Another visitor at work at the same time makes them longer."
)


def time_bar(full: Times, pruned: Times, repeats: int) -> str:
    """Two bars of one scale, with a legend and the figures in words."""
    longest = max(full.total, pruned.total) or 1.0
    rows = []
    for label, times in (("All tokens", full), ("Kept tokens", pruned)):
        parts = "".join(
            f"<span class='otp-{name}' style='width:{100 * getattr(times, name) / longest:.2f}%'>"
            "</span>"
            for name in PARTS
        )
        figures = ", ".join(f"{name} {in_seconds(getattr(times, name))}" for name in PARTS)
        rows.append(
            f"<div class='otp-bar-row'><span class='otp-bar-label'>{label}: "
            f"<b>{in_seconds(times.total)}</b> ({figures})</span>"
            f"<div class='otp-bar' aria-hidden='true'>{parts}</div></div>"
        )
    legend = "".join(
        f"<li><span class='otp-key otp-{name}' aria-hidden='true'></span>{name}: {meaning}</li>"
        for name, meaning in PARTS.items()
    )
    return (
        f"<div class='otp-times'><h3>Time to first token</h3>{''.join(rows)}"
        f"<ul class='otp-legend'>{legend}</ul>"
        f"<p class='otp-soft'>{TIMED.format(repeats=repeats)}</p></div>"
    )


@dataclass(frozen=True)
class Point:
    """One keep of a sweep.

    Attributes:
        keep: ratio.
        tokens: kept.
        answer: with them.
        same: whether it is the answer with all tokens.
        distances: by name, relative; None without POT.
    """

    keep: float
    tokens: int
    answer: str
    same: bool
    distances: dict[str, float | None]


# Plot area in the units of the SVG.
_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 44


def curve(points: Sequence[Point]) -> str:
    """Distances against keep; a filled point has the answer of all tokens."""
    if not points:
        return ""
    values = [value for point in points for value in point.distances.values() if value is not None]
    top = _ceiling(max(values, default=0.0))

    def x(keep: float) -> float:
        return _LEFT + keep * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (1 - value / top) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for i in range(5):
        value = top * i / 4
        parts.append(
            f"<line class='otp-grid' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y(value):.1f}' "
            f"y2='{y(value):.1f}'/><text class='otp-tick' text-anchor='end' x='{_LEFT - 8}' "
            f"y='{y(value) + 4:.1f}'>{value:.3g}</text>"
        )
    for keep in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f"<text class='otp-tick' text-anchor='middle' x='{x(keep):.1f}' "
            f"y='{_HEIGHT - _BOTTOM + 18}'>{keep:g}</text>"
        )
    parts.append(
        f"<text class='otp-tick' text-anchor='middle' x='{x(0.5):.1f}' y='{_HEIGHT - 6}'>"
        "keep: share of the visual tokens</text>"
    )
    legend = []
    for number, (name, (label, _)) in enumerate(DISTANCES.items()):
        line = [(p, v) for p in points if (v := p.distances[name]) is not None]
        if not line:
            continue
        path = " ".join(f"{x(p.keep):.1f},{y(v):.1f}" for p, v in line)
        parts.append(f"<polyline class='otp-line otp-line-{number}' points='{path}'/>")
        parts += [
            f"<circle class='otp-dot otp-line-{number}{'' if p.same else ' otp-other'}' "
            f"cx='{x(p.keep):.1f}' cy='{y(v):.1f}' r='5'>"
            f"<title>{escape(f'keep {p.keep:g}: {label.lower()} {v:.4f}, {p.answer!r}')}</title>"
            "</circle>"
            for p, v in line
        ]
        legend.append(
            "<li><svg class='otp-key-line' viewBox='0 0 28 10' aria-hidden='true'>"
            f"<line class='otp-line otp-line-{number}' x1='0' x2='28' y1='5' y2='5'/></svg>"
            f"{escape(label)}</li>"
        )
    legend.append("<li>Filled points: the answer is that of all tokens. Hollow: another one.</li>")
    return (
        f"<div class='otp-curve'><svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' "
        "aria-label='Distances against keep; the table below has the same figures'>"
        f"{''.join(parts)}</svg><ul class='otp-legend'>{''.join(legend)}</ul></div>"
    )


def full_answer(text: str, note: str = "") -> str:
    """The answer with all tokens; `note` says which of several images in a file it is about."""
    of = f"Of the file's {escape(note)}. " if note else ""
    return f"<p>{of}With all tokens: <b>{escape(text)}</b></p>"


def curve_table(points: Sequence[Point]) -> str:
    """The same in figures, with the answers."""
    heads = "".join(f"<th scope='col'>{escape(label)}</th>" for label, _ in DISTANCES.values())
    rows = "".join(
        f"<tr><th scope='row'>{point.keep:g}</th><td>{point.tokens}</td>"
        f"<td>{escape(point.answer)}{'' if point.same else ' (another)'}</td>"
        + "".join(
            f"<td>{'needs POT' if value is None else f'{value:.4f}'}</td>"
            for value in point.distances.values()
        )
        + "</tr>"
        for point in points
    )
    return (
        "<div class='otp-scroll' tabindex='0' role='region' aria-label='Table of the sweep'>"
        "<table class='otp-figures'>"
        "<caption>Answer and distances against keep</caption><thead><tr><th scope='col'>Keep</th>"
        f"<th scope='col'>Tokens</th><th scope='col'>Answer</th>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _ceiling(value: float) -> float:
    """A round number not below a value."""
    step = 1e-6
    while True:
        for factor in (1, 2, 2.5, 5):
            if factor * step >= value:
                return factor * step
        step *= 10
