"""From runs of the stream bench to figures."""

from __future__ import annotations

from typing import Any

from otprune_bench.figures.statistics import mean_of_runs
from otprune_bench.runs.cases import Results
from otprune_bench.stream.plan import MEASURES, STREAM, VIDEO, Plan


def summarise(plan: Plan, found: Results) -> dict[str, Any]:
    """The long stream; means over the videos with standard errors; the first video by frame.

    A failed video is left out here, and in the report's list of failures.
    """
    figures: dict[str, Any] = {"long stream": found["long stream"]}
    videos = [found[f"video {i + 1}"] for i in range(plan.videos)]
    whole = [video for video in videos if "failed" not in video]
    if not whole:
        return figures
    figures["first video"] = {
        **whole[0]["frames"],
        STREAM: whole[0][STREAM]["per_frame"],
        VIDEO: whole[0][VIDEO]["per_frame"],
    }
    for name in whole[0]:
        if name != "frames":
            figures[name] = {
                measure: mean_of_runs([video[name][measure] for video in whole])
                for measure in MEASURES
            }
            figures[name]["of best value"] = mean_of_runs(
                [video[name]["value"] / video[VIDEO]["value"] for video in whole]
            )
    return figures
