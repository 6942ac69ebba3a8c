"""From runs of the efficiency bench to figures."""

from __future__ import annotations

import statistics
from typing import Any

from otprune.flops import prefill_flops
from otprune_bench.efficiency.plan import (
    CHECKED,
    PUBLISHED_TEXT,
    PUBLISHED_TFLOP,
    SETTINGS,
    WHOLE,
    Plan,
)
from otprune_bench.figures.statistics import spread
from otprune_bench.methods import UNPRUNED
from otprune_bench.runs.cases import Results


def published() -> dict[str, Any]:
    """The paper's TFLOP of LLaVA-1.5-7B, beside the formula: mean over its eleven prompts."""
    return {
        str(visual): {
            "published": tera,
            "formula": statistics.mean(
                prefill_flops(32, 4096, 11008, visual + text) for text in PUBLISHED_TEXT
            )
            / 1e12,
        }
        for visual, tera in PUBLISHED_TFLOP.items()
    }


def summarise(plan: Plan, found: Results) -> dict[str, Any]:
    """Figures of every setting from the runs; a setting with a failed run is failed."""
    figures: dict[str, Any] = {} if plan.encoder_only else {"published TFLOP": published()}
    for shape in plan.shapes:
        name = shape.name
        _summarise_stages(plan, name, found, figures)
        if plan.encoder_only:
            continue
        figures[f"{name}/operations"] = found[f"{name}/operations"]
        figures[f"{name}/process"] = found[f"{name}/process"]
        rounds = range(1, plan.repeats + 1)
        encoder = [found[f"{name}/encoder {WHOLE}#{r}"] for r in rounds]
        whole = [found[f"{name}/{UNPRUNED}#{r}"] for r in rounds]
        figures[f"{name}/encoder"] = _times(encoder)
        for setting in SETTINGS:
            runs = [found[f"{name}/{setting}#{r}"] for r in rounds]
            figures[f"{name}/{setting}"] = _setting(runs, encoder, whole)
            peak = found.get(f"{name}/memory/{setting}")
            if peak is not None:
                figures[f"{name}/memory/{setting}"] = peak
        for setting in CHECKED:
            figures[f"{name}/busy/{setting}"] = {
                state: _calls([found[f"{name}/{prefix}{setting}#{r}"] for r in rounds])
                for state, prefix in (("quiet", ""), ("busy", "busy/"))
            }
            key = f"{name}/from pixels/{setting}"
            figures[key] = found[key]
    for key, result in found.items():
        if key.startswith("tokens "):
            figures[key] = _times([result])
    return figures


def _summarise_stages(plan: Plan, name: str, found: Results, figures: dict[str, Any]) -> None:
    def runs(what: str, label: str) -> list[Any]:
        return [found[f"{name}/{what} {label}#{r}"] for r in range(1, plan.repeats + 1)]

    for label in plan.encoders:
        figures[f"{name}/staged {label}"] = _staged(
            runs("staged", label),
            runs("staged", WHOLE),
            runs("encoder", label),
            runs("encoder", WHOLE),
        )
        key = f"{name}/memory/encoder {label}"
        figures[key] = found[key]


def _setting(runs: list[Any], encoder: list[Any], whole: list[Any]) -> dict[str, Any]:
    failed = _failed([*runs, *encoder, *whole])
    if failed:
        return failed
    first = [run["first_token_seconds"] for run in runs]
    selector = [run["selector_seconds"] for run in runs]
    encoding = [run["seconds"] for run in encoder]
    total = [e + f for e, f in zip(encoding, first, strict=True)]
    before = [e + run["first_token_seconds"] for e, run in zip(encoding, whole, strict=True)]
    step = [statistics.median(run["decoding_seconds"]) for run in runs]
    answer = [
        (1 + len(run["decoding_seconds"])) / (t + sum(run["decoding_seconds"]))
        for t, run in zip(total, runs, strict=True)
    ]
    return {
        "prompt_tokens": runs[0]["prompt_tokens"],
        "first_token_seconds": spread(total),
        "selector_seconds": spread(selector),
        "prefill_seconds": spread([f - s for f, s in zip(first, selector, strict=True)]),
        # Of the same round each: what the machine did meanwhile falls on both.
        "speed_up": spread([b / t for b, t in zip(before, total, strict=True)]),
        "decoding_tokens_per_second": spread([1 / s for s in step]),
        "answer_tokens_per_second": spread(answer),
        "cache_bytes": runs[0]["cache_bytes"],
        "processes": len({run["process"] for run in runs}),
    }


def _staged(
    runs: list[Any], usual: list[Any], alone: list[Any], whole: list[Any]
) -> dict[str, Any]:
    """Calls from pixels with a selection inside the encoder, and the encoder alone.

    Args:
        runs, usual: the calls with it and without.
        alone, whole: the encoder with it and without.
    """
    failed = _failed([*runs, *usual, *alone, *whole])
    if failed:
        return failed

    def ratio(a: list[Any], b: list[Any], of: str, to: str) -> dict[str, Any]:
        """Of the same round each."""
        return spread([x[of] / y[to] for x, y in zip(a, b, strict=True)])

    return {
        "first_token_seconds": spread([run["first_token_seconds"] for run in runs]),
        "first_token_share": ratio(runs, usual, "first_token_seconds", "first_token_seconds"),
        "first_token_cpu_share": ratio(runs, usual, "cpu_seconds", "cpu_seconds"),
        "encoder_cpu_share": ratio(alone, whole, "cpu_seconds", "cpu_seconds"),
        "encoder_seconds": spread([run["seconds"] for run in alone]),
        "encoder_share": ratio(alone, whole, "seconds", "seconds"),
        "inside_seconds": spread([run["inside_seconds"] for run in alone]),
        "inside_share": ratio(alone, alone, "inside_seconds", "seconds"),
        "inside_share_of_whole": ratio(alone, whole, "inside_seconds", "seconds"),
        "selector_seconds": spread([run["selector_seconds"] for run in runs]),
        "prompt_tokens": runs[0]["prompt_tokens"],
        "load": spread([run["load"] for run in alone]),
    }


def _calls(runs: list[Any]) -> dict[str, Any]:
    """Times of calls on the encoder's output."""
    failed = _failed(runs)
    if failed:
        return failed
    return {
        name: spread([run[name] for run in runs])
        for name in ("first_token_seconds", "selector_seconds")
    }


def _times(runs: list[Any]) -> dict[str, Any]:
    failed = _failed(runs)
    if failed:
        return failed
    seconds = [run["seconds"] for run in runs]
    return {"seconds": spread(seconds[0] if isinstance(seconds[0], list) else seconds)}


def _failed(runs: list[Any]) -> dict[str, Any] | None:
    reasons = sorted({run["failed"] for run in runs if "failed" in run})
    return {"failed": "; ".join(reasons)} if reasons else None
