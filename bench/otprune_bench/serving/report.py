"""The report of `otprune bench serving`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from otprune_bench.runs.cases import Results, failures
from otprune_bench.runs.report import panels, table
from otprune_bench.serving.plan import BEFORE, COMPARED, Plan, Workload, key

HEAD = (
    *("", "prompt", "first token, ms", "of keep 1.0", "whole answer, ms"),
    *("requests / s", "of keep 1.0", "answer tokens / s"),
)
SINCE = ("", "requests / s", "first token", "whole answer")


def write(plan: Plan, found: Results) -> str:
    """The report in Markdown."""
    size, tower = plan.size, plan.tower
    lines = [
        "# Serving: a vLLM server under load",
        "",
        f"`vllm serve` on the loopback, CPU, float32, eager: a Qwen2.5-VL with **random weights**, "
        f"a small language model ({size.layers} layers of width {size.width}) and a vision encoder "
        f"of {tower['depth']} layers of width {tower['hidden_size']}, so that what is compared is "
        "the work, not the answers. No image is seen twice, so no cache helps. "
        "*stock* is a second server without otprune; the others are requests to one server, each "
        "with its own ratio. Every round runs all of them in an order of its own; medians over "
        f"{plan.rounds} round{'s' * (plan.rounds > 1)}, least and most in brackets, "
        "ratios taken within a round. GPUs were not measured.",
        "",
        "![First token and throughput by load](load.png)",
        "",
    ]
    for workload in plan.workloads:
        m = workload.side**2
        lines += [
            f"## {workload.name[0].upper()}{workload.name[1:]}",
            "",
            f"{m} visual tokens, answers of {workload.new} tokens.",
            "",
        ]
        for concurrent, number in plan.loads:
            lines += [f"{number} requests, {concurrent} at once:", ""]
            lines += [table(HEAD, _rows(plan, workload, concurrent, found)), ""]
            if plan.against is not None and workload.encoder:
                lines += [f"Of the earlier build ({plan.settings()['against']}):", ""]
                lines += [table(SINCE, _since(plan, workload, concurrent, found)), ""]
    return "\n".join([*lines, *failures(found)])


def _rows(plan: Plan, workload: Workload, concurrent: int, found: Results) -> list[list[str]]:
    rows = []
    for arm in plan.arms(workload):
        pairs = _pairs(plan, workload, concurrent, arm, found)
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


def _since(plan: Plan, workload: Workload, concurrent: int, found: Results) -> list[list[str]]:
    """The arms of a ratio that the earlier build was asked for, and how they compare to it."""
    rows = []
    for name in plan.arms(workload):
        keep = next((f"keep {keep}" for keep in COMPARED if name.startswith(f"keep {keep}")), None)
        pairs = keep and _pairs(plan, workload, concurrent, name, found, BEFORE + keep)
        if pairs:
            ratios = [
                _spread([run[figure] / base[figure] for run, base in pairs], "{:.2f}")
                for figure in ("answered", "first", "whole")
            ]
            rows.append([name, *ratios])
    return rows


def _pairs(
    plan: Plan,
    workload: Workload,
    concurrent: int,
    arm: str,
    found: Results,
    to: str = "keep 1.0",
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """An arm's runs, each with another's of the same round; without those that failed."""

    def runs(arm: str) -> list[dict[str, Any]]:
        return [found[key(workload, concurrent, arm, i)] for i in range(1, plan.rounds + 1)]

    return [
        (run, base)
        for run, base in zip(runs(arm), runs(to), strict=True)
        if "failed" not in run and "failed" not in base
    ]


def draw(folder: Path, plan: Plan, found: Results) -> None:
    """`load.png`: both against the number of requests at once, relative to keep 1.0."""
    looks = {"first": "time to first token", "answered": "requests a second"}
    columns = len(plan.workloads)
    with panels(folder, "load", len(looks), columns, (4.2 * columns + 1.4, 6.4)) as grid:
        for i, (figure, said) in enumerate(looks.items()):
            for j, workload in enumerate(plan.workloads):
                axes = grid[i * columns + j]
                for arm in plan.arms(workload):
                    ratios = {
                        concurrent: statistics.median(
                            run[figure] / base[figure] for run, base in pairs
                        )
                        for concurrent, _ in plan.loads
                        if (pairs := _pairs(plan, workload, concurrent, arm, found))
                    }
                    axes.plot(list(ratios), list(ratios.values()), marker="o", label=arm)
                axes.set_xscale("log", base=2)
                ticks = [concurrent for concurrent, _ in plan.loads]
                axes.set_xticks(ticks, [str(n) for n in ticks])
                axes.set(xlabel="requests at once", ylabel=f"{said}, of keep 1.0's", ylim=(0, None))
                if i == 0:
                    axes.set_title(workload.name)
        most = max(grid[:columns], key=lambda axes: len(axes.lines))
        grid[columns - 1].legend(
            *most.get_legend_handles_labels(),
            frameon=False,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
        )


def _spread(values: list[float], form: str) -> str:
    middle, least, most = (form.format(f(values)) for f in (statistics.median, min, max))
    return middle if least == most else f"{middle} ({least} to {most})"
