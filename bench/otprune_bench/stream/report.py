"""The stream bench in words, tables and plots."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

from otprune_bench.figures.plots import legend_beside
from otprune_bench.runs.cases import Results, failures
from otprune_bench.runs.report import COLORS, figure, panels, table
from otprune_bench.stream.plan import CUT, PAN, STREAM, VIDEO, Plan

Figures = dict[str, Any]

HEAD = """# Streams: frame in, kept tokens out

`StreamSelector` chooses a frame's tokens when it comes; `select_video` has all frames at hand and
one budget over them. Both maximise `logdet(I + X_C X_C^T / 0.01)` on tokens at unit length."""

LONG = """## {frames:,} frames

A made-up camera: {tokens} tokens of {features} features a frame, low rank with drift and noise; the
view moves on by {pan} tokens a frame and is cut every {cut} frames, so that there is always news.
Rate {rate:g} tokens a frame. Time is that of `push` alone, without making the frame; a step in it,
and the slowest frames, are the sketch being brought down to its rank."""

QUALITY = """## Beside all frames at hand

{videos} videos of {frames} frames, {shots} shots each: stickers drift over {below}, come in one
after the other, and are cut off; the noise of a sensor is on top. Tokens are the embedded model's,
144 a frame, as its language part would get them. The stream may keep {keep:.0%} of the tokens and
keeps less, since what is not new is not worth its price. Where no share is said, others keep as
many in all as it did. *Objective* is the kept
set's, relative to `select_video`. *News* is the share of stickers of which a token is kept in the
very frame in which they come. Distances are squared 2-Wasserstein distances between all tokens of
the video and the kept ones, over the mean squared token norm. ± is one standard error."""

ROWS = {
    "share": ("tokens kept", 100, "%", 2),
    "of best value": ("objective", 100, "%", 1),
    "arrivals": ("news", 100, "%", 1),
    "gaussian_w2": ("Gaussian W2²", 1, "", 3),
    "free_mass_w2": ("free-mass W2²", 1, "", 3),
    "free_mass_w2_rows": ("free-mass W2², unit rows", 1, "", 3),
}


def write(plan: Plan, figures: Figures, found: Results) -> str:
    """The report in Markdown."""
    parts = [HEAD, *failures(found), _long(plan, figures["long stream"])]
    methods = [name for name in figures if "of best value" in figures[name]]
    if methods:
        rows = [
            [name, *(_cell(figures[name][key], *look[1:]) for key, look in ROWS.items())]
            for name in methods
        ]
        below = "photographs" if plan.photographs else "smooth noise (a small run)"
        parts.append(
            QUALITY.format(
                videos=plan.videos,
                frames=plan.shots * plan.length,
                shots=plan.shots,
                below=below,
                keep=plan.keep,
            )
        )
        parts.append(table(["", *(look[0] for look in ROWS.values())], rows))
        parts.append("![Tokens kept of each frame of the first video](video.png)")
    return "\n\n".join(parts)


def draw(folder: Path, plan: Plan, figures: Figures) -> None:
    """All plots."""
    if "failed" not in figures["long stream"]:
        _draw_long(folder, plan, figures["long stream"])
    if "first video" in figures:
        _draw_video(folder, plan, figures["first video"])


def drift(points: list[dict[str, Any]], key: str) -> float:
    """Relative change from the first fifth of the points to the last, the very first left out.

    Of medians, since single points show what else the machine did.
    """
    values = [point[key] for point in points[1:]]
    some = max(1, len(values) // 5)
    return float(statistics.median(values[-some:]) / statistics.median(values[:some])) - 1


def _long(plan: Plan, one: dict[str, Any]) -> str:
    text = LONG.format(
        frames=plan.frames,
        tokens=plan.tokens,
        features=plan.features,
        rate=plan.rate,
        pan=PAN,
        cut=CUT,
    )
    if "failed" in one:
        return f"{text}\n\nFailed."
    points = one["points"]
    rows = [
        (
            f"{p['frames']:,}",
            f"{1e3 * p['median_seconds']:.2f}",
            f"{1e3 * p['p99_seconds']:.2f}",
            f"{1e3 * p['slowest_seconds']:.2f}",
            f"{1e3 * p['processor_seconds']:.2f}",
            f"{p['state_bytes'] / 2**20:.2f}",
            "-" if p["resident_bytes"] is None else f"{p['resident_bytes'] / 2**20:.0f}",
            f"{p['kept'] / p['frames']:.2f}",
        )
        for p in points[:: max(1, len(points) // 10)] + points[-1:]
    ]
    head = [
        "frames so far",
        "median, ms",
        "99%, ms",
        "slowest, ms",
        "processor time, median, ms",
        "state, MiB",
        "process, MiB",
        "kept a frame, so far",
    ]
    said = (
        f"{one['frames_per_second']:.0f} frames a second over all {plan.frames:,}, the slowest "
        f"frame {1e3 * one['slowest_seconds']:.1f} ms; {plan.frames / one['processor_seconds']:.0f}"
        " a second of processor time (all threads'). From the first to the last fifth of the run, "
        f"medians: time {100 * drift(points, 'median_seconds'):+.1f}%, processor time "
        f"{100 * drift(points, 'processor_seconds'):+.1f}%, state "
        f"{100 * drift(points, 'state_bytes'):+.1f}%. Load average of the machine at the end: "
        f"{one['load']:.1f}."
    )
    return "\n\n".join([text, said, table(head, rows, 0), "![Time and memory](long.png)"])


def _cell(value: dict[str, float], scale: float, unit: str, digits: int) -> str:
    mean, error = scale * value["mean"], scale * value["standard_error"]
    return f"{mean:.{digits}f}{unit} ± {error:.{digits}f}"


def _draw_long(folder: Path, plan: Plan, one: dict[str, Any]) -> None:
    points = one["points"]
    x = [p["frames"] for p in points]
    with panels(folder, "long", 1, 2, (10, 3.8)) as (left, right):
        for color, key, label in (
            (COLORS[0], "median_seconds", "median"),
            (COLORS[1], "p99_seconds", "99%"),
            (COLORS[2], "processor_seconds", "median, processor time"),
        ):
            left.plot(x, [1e3 * p[key] for p in points], color=color, label=label)
        left.axhline(1e3 / 30, color=COLORS[7], linestyle="--", label="30 frames a second")
        left.set(xlabel="frames so far", ylabel=f"ms a frame ({plan.every} frames a point)")
        left.set_yscale("log")
        left.legend(frameon=False, fontsize=9)
        right.plot(x, [p["state_bytes"] / 2**20 for p in points], color=COLORS[0], label="state")
        if points[0]["resident_bytes"] is not None:
            grown = [(p["resident_bytes"] - points[0]["resident_bytes"]) / 2**20 for p in points]
            right.plot(x, grown, color=COLORS[1], label="process, since the first point")
        right.set(xlabel="frames so far", ylabel="MiB")
        right.legend(frameon=False, fontsize=9)


def _draw_video(folder: Path, plan: Plan, one: dict[str, Any]) -> None:
    shots, new = one["shot"], one["new"]
    cuts = [t for t, (a, b) in enumerate(itertools.pairwise([-1, *shots])) if a != b]
    x = range(len(shots))
    with figure(folder, "video", (9, 3.8)) as axes:
        axes.step(x, one[STREAM], where="mid", color=COLORS[0], label=STREAM)
        axes.step(x, one[VIDEO], where="mid", color=COLORS[1], label=VIDEO, linewidth=1)
        for t in cuts:
            axes.axvline(t, color=COLORS[7], linestyle="--", label="cut" if t == 0 else None)
        comes = [t for t in x if new[t] and t not in cuts]
        top = max(*one[STREAM], *one[VIDEO])
        axes.plot(
            comes, [1.06 * top] * len(comes), "v", color=COLORS[2], label="a sticker comes in"
        )
        axes.set(xlabel="frame", ylabel="tokens kept of 144", ylim=(0, 1.15 * top))
        legend_beside(axes)
