"""From clips to figures: means over the episodes, each real clip by itself."""

from __future__ import annotations

from typing import Any

from otprune_bench.figures.statistics import mean_of_runs
from otprune_bench.robot.plan import MADE, MEASURES, OWN, Plan, key
from otprune_bench.runs.cases import Results


def summarise(plan: Plan, found: Results) -> dict[str, Any]:
    """Groups of clips ("episodes, noise 2", "bikes", ...): point, method, measure to estimates.

    A clip that failed is left out here, and in the report's list of failures.
    """
    groups = {MADE: [MADE]}
    for noise in plan.noises:
        groups[key("episodes", noise)] = [key(name, noise) for name in plan.episodes]
    groups |= {key(name): [key(name)] for name in plan.clips}
    figures: dict[str, Any] = {}
    for group, members in groups.items():
        clips = [found[m] for m in members if m in found and "failed" not in found[m]]
        if clips:
            figures[group] = _means(clips)
    return figures


def points(one: dict[str, Any]) -> list[str]:
    """Of a clip or a group: "alone", and the numbers of tokens at which methods are compared."""
    return [name for name in one if name in ("alone", OWN) or name.isdigit()]


def _means(clips: list[dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "clips": len(clips),
        "encoder_milliseconds": mean_of_runs([clip["encoder_milliseconds"] for clip in clips]),
    }
    looks = [clip["known looks"] for clip in clips if clip["known looks"]]
    if looks:
        made["known looks"] = {
            name: mean_of_runs([one[name] for one in looks]) for name in ("median", "below")
        }
    for point in points(clips[0]):
        made[point] = {
            method: {
                name: mean_of_runs(values)
                for name in MEASURES
                if (
                    values := [
                        clip[point][method][name]
                        for clip in clips
                        if clip[point][method][name] is not None
                    ]
                )
            }
            for method in clips[0][point]
        }
    return made
