"""The report of `otprune bench serving`."""

from __future__ import annotations

import statistics
from typing import Any

from otprune.bench.cases import Results, failures
from otprune.bench.report import table
from otprune.bench.serving import Scope, Workload, arms, key

HEAD = (
    *("", "prompt", "first token, ms", "of keep 1.0", "whole answer, ms"),
    *("requests / s", "of keep 1.0", "answer tokens / s"),
)


def write(scope: Scope, found: Results) -> str:
    """The report in Markdown."""
    size = scope.size
    lines = [
        "# Serving: a vLLM server under load",
        "",
        f"`vllm serve` on the loopback, CPU, bfloat16, eager: a Qwen2.5-VL with **random weights** "
        f"and a small language model ({size.layers} layers of width {size.width}), so that what is "
        "compared is the work, not the answers. No picture is seen twice, so no cache helps. "
        "*stock* is a second server without otprune; the others are requests to one server, each "
        "with its own ratio. Every round runs all of them in an order of its own; medians over "
        f"{scope.rounds} rounds, least and most in brackets, ratios taken within a round. "
        "GPUs were not measured.",
        "",
    ]
    for workload in scope.workloads:
        m = workload.side**2
        lines += [
            f"## {workload.name[0].upper()}{workload.name[1:]}",
            "",
            f"{m} visual tokens, answers of {workload.new} tokens.",
            "",
        ]
        for concurrent, number in scope.loads:
            lines += [f"{number} requests, {concurrent} at once:", ""]
            lines += [table(HEAD, _rows(scope, workload, concurrent, found)), ""]
    return "\n".join([*lines, *failures(found)])


def _rows(scope: Scope, workload: Workload, concurrent: int, found: Results) -> list[list[str]]:
    def runs(arm: str) -> list[dict[str, Any]]:
        keys = [key(workload, concurrent, arm, i) for i in range(1, scope.rounds + 1)]
        return [found[k] for k in keys]

    whole = runs("keep 1.0")
    rows = []
    for arm, _ in arms():
        pairs = [
            (run, base)
            for run, base in zip(runs(arm), whole, strict=True)
            if "failed" not in run and "failed" not in base
        ]
        if not pairs:
            rows.append([arm, *["failed"] * (len(HEAD) - 1)])
            continue
        rows.append(
            [
                arm,
                f"{pairs[0][0]['prompt']:.0f}",
                _spread([1e3 * run["first"] for run, _ in pairs], "{:.0f}"),
                _spread([run["first"] / base["first"] for run, base in pairs], "{:.2f}"),
                _spread([1e3 * run["whole"] for run, _ in pairs], "{:.0f}"),
                _spread([run["answered"] for run, _ in pairs], "{:.2f}"),
                _spread([run["answered"] / base["answered"] for run, base in pairs], "{:.2f}"),
                _spread([run["tokens"] for run, _ in pairs], "{:.0f}"),
            ]
        )
    return rows


def _spread(values: list[float], form: str) -> str:
    middle, least, most = (form.format(f(values)) for f in (statistics.median, min, max))
    return middle if least == most else f"{middle} ({least} to {most})"
