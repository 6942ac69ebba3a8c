"""From runs of the speed bench to figures."""

from __future__ import annotations

from typing import Any

from otprune_bench.figures.statistics import spread
from otprune_bench.speed.plan import BUSY, TRANSPORT
from otprune_bench.timing.race import EXACT, TRANSCRIPTION, paired


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """Seconds of every contender, and their ratios to the transcription's of the same round.

    Medians with least and most; no ratios where the transcription did not run.
    """
    if BUSY in result:
        return {name: summarise(part) for name, part in result.items()}
    if "failed" in result or "seconds" not in result:
        return result
    seconds: dict[str, list[float]] = result["seconds"]
    figures = {**result, "seconds": {name: spread(values) for name, values in seconds.items()}}
    if TRANSCRIPTION in seconds:
        figures["ratio"] = {
            name: spread(paired(values, seconds[TRANSCRIPTION]))
            for name, values in seconds.items()
            if name != TRANSCRIPTION
        }
    if TRANSPORT in seconds and EXACT in seconds:
        figures["transport to exact"] = spread(paired(seconds[TRANSPORT], seconds[EXACT]))
    return figures
