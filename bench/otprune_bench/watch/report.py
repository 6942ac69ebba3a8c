"""The watch bench in words, tables and plots."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from otprune_bench.runs.cases import Results, failures
from otprune_bench.runs.report import COLORS, panels, table
from otprune_bench.watch.plan import EMBEDDED, GRID, OTPRUNE, SESSION, Plan

HEAD = """# Watching: answers from a session, and a session without end

`otprune.watch` encodes a frame when it comes, and keeps the selected tokens in a KV cache. A
question is answered from that cache. The other way is one prompt with all frames of the clip,
pruned to as many tokens when the question comes."""

ANSWERS = """## Time to answer

From the end of the question to the first token of its answer, medians of {repeats} rounds with
their range, in one run. The clip has {clip} frames; {kept} tokens of each are kept, evenly spread,
so that no way selects better than another. Preprocessing of the clip is not counted, tokenizing of
the question is. *All frames* is what the session spent on the clip as it came in.{large}"""

RANDOM = """ LLaVA-OneVision-0.5B was asked once, about {large_clip} frames, since they take
minutes; it has random weights in float32, which does not change its time."""

LONG = """## {frames:,} frames

The embedded model on videos of stickers that move over {below}, with noise. `FixedCameraSelector`
may keep {rate:g} tokens a frame on average; {memory} are remembered, the oldest leave. Times are
medians over {every} frames, of those that changed. The model has 2,048 positions: when they are
used up, what is remembered is laid out anew, which is a part of prefill."""


def write(plan: Plan, found: Results) -> str:
    """The report in Markdown."""
    parts = [HEAD, *failures(found)]
    models = [n for n in found if n != "long session" and "failed" not in found[n]]
    if models:
        parts.append(
            ANSWERS.format(
                repeats=plan.repeats,
                clip=plan.clip,
                kept=plan.kept,
                large=RANDOM.format(large_clip=plan.large_clip) if plan.large else "",
            )
        )
        parts.append(table(_ANSWER_HEAD, [_answer_row(n, found[n]) for n in models]))
    if "failed" not in found["long session"]:
        below = "photographs" if plan.photographs else "smooth noise (a small run)"
        about = plan.settings() | {"below": below}
        long = found["long session"]
        kept = f"{long['kept']:,} tokens were kept in all."
        parts += [LONG.format(**about), f"{kept} {_long(long['points'])}"]
        parts.append("![Time and memory](long.png)")
    return "\n\n".join(parts)


_ANSWER_HEAD = [
    "",
    "frames",
    "tokens",
    "session, ms",
    "whole clip, grid, ms",
    "ratio",
    "whole clip, otprune, ms",
    "ratio",
    "all frames, s",
]


def ratio(one: dict[str, Any], way: str) -> float:
    """The session's median time over another way's."""
    times = one["times"]
    return float(statistics.median(times[SESSION]) / statistics.median(times[way]))


def _answer_row(name: str, one: dict[str, Any]) -> list[str]:
    times = one["times"]
    row = ["the embedded model" if name == EMBEDDED else name, str(one["frames"])]
    row.append(f"{one['tokens']:,}")
    row.append(_span(times[SESSION]))
    for way in (GRID, OTPRUNE):
        row += [_span(times[way]), f"{ratio(one, way):.3f}x"]
    return [*row, f"{one['see_total']:.1f}"]


def _span(values: list[float]) -> str:
    middle, low, high = (1e3 * f(values) for f in (statistics.median, min, max))
    return f"{middle:,.0f} [{low:,.0f}, {high:,.0f}]"


def _long(points: list[dict[str, Any]]) -> str:
    head = [
        "frames so far",
        "encoder, ms",
        "selection, ms",
        "prefill, ms",
        "frame, ms",
        "a second",
        "slowest, ms",
        "answer, ms",
        "remembered",
        "state, MiB",
        "process, MiB",
    ]
    rows = [
        (
            f"{p['frames']:,}",
            *(f"{1e3 * p[part]:.1f}" for part in ("encode", "select", "prefill")),
            f"{1e3 * p['median_seconds']:.1f}",
            f"{1 / p['median_seconds']:.0f}",
            f"{1e3 * p['slowest_seconds']:.0f}",
            f"{1e3 * p['ask_seconds']:.0f}",
            p["remembered"],
            f"{p['state_bytes'] / 2**20:.2f}",
            "-" if p["resident_bytes"] is None else f"{p['resident_bytes'] / 2**20:.0f}",
        )
        for p in points[:: max(1, len(points) // 8)] + points[-1:]
    ]
    total = {
        part: statistics.mean(p[f"mean_{part}"] for p in points)
        for part in ("encode", "select", "prefill")
    }
    whole = sum(total.values())
    shares = ", ".join(
        f"{name} {100 * total[part] / whole:.0f}%"
        for part, name in (("encode", "encoder"), ("select", "selection"), ("prefill", "prefill"))
    )
    said = f"Where a frame's time goes: {shares}. {drift(points)}"
    return f"{said}\n\n{table(head, rows, 0)}"


def drift(points: list[dict[str, Any]]) -> str:
    """How time and memory changed from the first fifth of the run to the last, in words."""
    some = max(1, len(points) // 5)
    said = []
    for key, name in (
        ("median_seconds", "time of a frame"),
        ("ask_seconds", "of an answer"),
        ("state_bytes", "state"),
        ("resident_bytes", "process"),
    ):
        values = [p[key] for p in points[1:] or points if p[key] is not None]
        if values:
            first, last = (statistics.median(x) for x in (values[:some], values[-some:]))
            said.append(f"{name} {100 * (last / first - 1):+.1f}%")
    return "From the first to the last fifth of the run, medians: " + ", ".join(said) + "."


def draw(folder: Path, found: Results) -> None:
    """All plots."""
    if "failed" in found["long session"]:
        return
    points = found["long session"]["points"]
    frames = [p["frames"] for p in points]
    with panels(folder, "long", 1, 2, (9.5, 3.8)) as (left, right):
        for part, name, color in zip(
            ("encode", "select", "prefill", "ask_seconds"),
            ("encoder", "selection", "prefill", "an answer's first token"),
            COLORS,
            strict=False,
        ):
            left.plot(frames, [1e3 * p[part] for p in points], color=color, label=name)
        left.set(xlabel="frames so far", ylabel="milliseconds, median")
        left.set_ylim(bottom=0)
        left.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
        right.plot(frames, [p["state_bytes"] / 2**20 for p in points], label="state of the session")
        if all(p["resident_bytes"] is not None for p in points):
            start = points[0]["resident_bytes"]
            grown = [(p["resident_bytes"] - start) / 2**20 for p in points]
            right.plot(frames, grown, label="growth of the process")
        right.set(xlabel="frames so far", ylabel="MiB")
        right.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
