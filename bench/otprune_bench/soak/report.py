"""The report of `otprune bench soak`."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otprune_bench.runs.cases import Results, failures
from otprune_bench.runs.report import panels, table
from otprune_bench.soak.plan import KINDS, MOST, NUMBERS, QWEN, Plan, key, killed_key, stop_key

FIFTHS = 5
HEAD = (
    *("", "sent", "answered", "refused, 400", "client left", "sent twice"),
    *("first token, ms", "whole answer, ms"),
)


def write(plan: Plan, found: Results) -> str:
    """The report in Markdown."""
    lines = [
        "# Soak: a vLLM server under mixed load for long",
        "",
        f"`vllm serve` on the loopback, CPU, float32, eager, with otprune, {plan.concurrent} "
        "requests at once. Each request follows from the seed and its number: images from one "
        "pixel to 2,400 pixels wide or high in several formats, several images, videos as JPEG "
        "frames and as MP4, every method that vLLM has with its own settings, broken images, wrong "
        "settings, clients that leave, earlier requests again in part or whole. Processor cache "
        "and KV cache are so small that they are full from the beginning on. The "
        f"{QWEN} has images of up to {MOST} tokens and preserved M-RoPE positions; its weights are "
        "random. GPUs were not measured.",
        "",
        *_summary(plan, found),
        "",
    ]
    for model in plan.requests:
        blocks = list(_blocks(plan, model, found))
        if not blocks:
            continue
        lines += [f"## {model[0].upper()}{model[1:]}", "", table(HEAD, _kinds(blocks)), ""]
        lines += [_answers(blocks), "", _caches(blocks), "", *_memory(blocks), "", "Refusals:", ""]
        lines += [table(("message, numbers as N", ""), _refusals(blocks)), ""]
        lines += [_stop(found[stop_key(model)]), ""]
        for role in plan.killed:
            if killed_key(model, role) in found:
                lines += [_killed(role, found[killed_key(model, role)]), ""]
        lines += _unexpected(blocks)
    return "\n".join([*lines, *failures(found)])


def draw(folder: Path, plan: Plan, found: Results) -> None:
    """`memory.png`: RSS of every process of the servers against the requests that were answered."""
    models = [model for model in plan.requests if list(_blocks(plan, model, found))]
    with panels(folder, "memory", 1, len(models), (5.2 * len(models) + 1.6, 3.8)) as grid:
        for axes, model in zip(grid, models, strict=True):
            lines: dict[str, list[tuple[float, float]]] = {}
            for samples in _samples(plan, model, found):
                for role, (rss, _) in samples["memory"].items():
                    lines.setdefault(role, []).append((samples["done"], rss))
            for role, points in sorted(lines.items()):
                axes.plot(*zip(*points, strict=True), label=role, linewidth=1.2)
            axes.set(title=model, xlabel="requests", ylabel="RSS, MiB", ylim=(0, None))
        grid[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _blocks(plan: Plan, model: str, found: Results) -> Iterator[dict[str, Any]]:
    for block in plan.blocks(model):
        result = found[key(model, block)]
        if "failed" not in result:
            yield result


def _samples(plan: Plan, model: str, found: Results) -> Iterator[dict[str, Any]]:
    """Samples in order; where the run was interrupted, a later server's follow the earlier's."""
    before, server = 0, None
    last = 0
    for block in _blocks(plan, model, found):
        if block["server"] != server:
            before, server = last, block["server"]
        for sample in (*block["memory"]["samples"], block["memory"]["rest"]):
            last = before + sample["done"]
            yield {**sample, "done": last}


def _summary(plan: Plan, found: Results) -> list[str]:
    blocks = [block for model in plan.requests for block in _blocks(plan, model, found)]
    sent = sum(one["sent"] for block in blocks for one in block["kinds"].values())
    answered = sum(one["answered"] for block in blocks for one in block["kinds"].values())
    answers = [one for block in blocks for one in block["answers"]]
    verdicts = Counter(one["verdict"] for one in answers)
    same = sum(one["step"] is None for one in answers)
    apart = same - verdicts["equal"]
    seconds = sum(block["seconds"] for block in blocks)
    return [
        f"- **{sent:,} requests** in {seconds / 60:.0f} minutes, {sent / seconds:.1f} a second.",
        f"- **{sum(len(x['wrong counts']) for x in blocks)} wrong counts** among {answered:,} "
        "answers: `usage.prompt_tokens` against the tokens of the text and `otprune.count(keep, "
        "m)` of each image, with m from the image's size.",
        f"- **{verdicts['other'] - apart} wrong answers** among {len(answers)} that were compared "
        f"with transformers, the same tokens dropped there. {same} are equal token by token, of "
        f"which {apart} have log-probabilities more than 0.001 apart (listed below); "
        f"{verdicts['near tie']} have another token that is as likely (within 0.001).",
        f"- **{sum(len(x['unexpected']) for x in blocks)} requests ended otherwise than they "
        "should**: with an error that was not expected, without one that was, or not at all.",
    ]


def _kinds(blocks: list[dict[str, Any]]) -> Iterator[list[str]]:
    for kind in KINDS:
        found = [block["kinds"][kind] for block in blocks if kind in block["kinds"]]
        if found:
            cells = [f"{sum(one[name] for one in found):,}" for name in NUMBERS]
            times = [
                _spread([t for one in found for t in one.get(name, ())])
                for name in ("first", "whole")
            ]
            yield [kind, *cells, *times]


def _spread(milliseconds: list[float]) -> str:
    if len(milliseconds) < 2:
        return ", ".join(f"{x:.0f}" for x in milliseconds)
    late = statistics.quantiles(milliseconds, n=20)[-1]
    return f"{statistics.median(milliseconds):.0f}, 95%: {late:.0f}"


def _answers(blocks: list[dict[str, Any]]) -> str:
    answers = [one for block in blocks for one in block["answers"]]
    if not answers:
        return "No answer was compared."
    return (
        f"{len(answers)} answers were compared, {len({one['number'] for one in answers})} of them "
        "different requests. Log-probabilities of the chosen tokens differ by at most "
        f"{max(one['gap'] for one in answers):.1e}."
    )


def _caches(blocks: list[dict[str, Any]]) -> str:
    """Counters of each server at its last block, added up."""
    last = {block["server"]: block["rest"] for block in blocks}
    counters: Counter[str] = Counter()
    for rest in last.values():
        counters.update(rest["counters"])
    prefix, media = (
        counters[f"{name}_hits"] / max(1.0, counters[f"{name}_queries"])
        for name in ("prefix_cache", "mm_cache")
    )
    drift = sum(rest["cache drift"] for rest in last.values())
    tracebacks = sum(rest["tracebacks"] for rest in last.values())
    return (
        f"{prefix:.0%} of the prompts' tokens came from the prefix cache, {media:.0%} of the "
        f"images from the processor cache; {counters['num_preemptions']:.0f} preemptions. vLLM "
        f"asked for an image again {drift} times (above: sent twice). {tracebacks} tracebacks in "
        "the log."
    )


def _memory(blocks: list[dict[str, Any]]) -> list[str]:
    """RSS at rest by fifths of the run, and growth behind the first."""
    servers = Counter(block["server"] for block in blocks)
    server, number = servers.most_common(1)[0]
    own = [block for block in blocks if block["server"] == server]
    rows = []
    for role in own[0]["memory"]["rest"]["memory"]:
        points = [
            (block["memory"]["rest"]["done"], *block["memory"]["rest"]["memory"][role])
            for block in own
            if role in block["memory"]["rest"]["memory"]
        ]
        fifths = [
            points[i * len(points) // FIFTHS : (i + 1) * len(points) // FIFTHS]
            for i in range(FIFTHS)
        ]
        means = [statistics.mean(x for _, x, _ in part) if part else None for part in fifths]
        late = [point for part in fifths[1:] for point in part]
        slope = "-"
        if len(late) > 2:
            done, rss, _ = zip(*late, strict=True)
            slope = f"{1000 * statistics.linear_regression(done, rss).slope:+.1f}"
        cells = ["-" if mean is None else f"{mean:.0f}" for mean in means]
        rows.append([role, *cells, f"{points[-1][2]:.0f}", slope])
    head = ("RSS at rest, MiB", *(f"fifth {i + 1}" for i in range(FIFTHS)))
    head += ("PSS at the end", "growth in 1,000 requests, from fifth 2 on")
    more = f" ({len(servers)} servers; of the one with most blocks)" * (len(servers) > 1)
    return [f"Memory after each of {number} blocks{more}:", "", table(head, rows)]


def _refusals(blocks: list[dict[str, Any]]) -> list[list[str]]:
    counted: Counter[str] = Counter()
    for block in blocks:
        counted.update(block["refusals"])
    return [[message.replace("|", "\\|"), str(n)] for message, n in sorted(counted.items())]


def _stop(found: dict[str, Any]) -> str:
    if "failed" in found:
        return "The stop failed, see below."
    left = f"{len(found['left'])} of {found['paths']} temporary files (/dev/shm too) were left"
    return (
        f"SIGTERM with {found['under way']} requests under way: the server ended after "
        f"{found['seconds']:.1f} s with code {found['code']}; {len(found['alive'])} of its "
        f"{len(found['processes'])} processes were left; {left}"
        f"{' (' + ', '.join(found['left kinds']) + ')' if found['left'] else ''}. "
        f"{_told(found)}"
    )


def _killed(role: str, found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"The case of a killed {role} failed, see below."
    return (
        f"SIGKILL to the {role} with {found['under way']} requests under way: the last client "
        f"heard of it after {found['until told']:.1f} s, the server ended after "
        f"{found['seconds']:.1f} s with code {found['code']}; {len(found['alive'])} of its "
        f"processes were left. {_told(found)} The next block of requests went to a new server."
    )


def _told(found: dict[str, Any]) -> str:
    """What clients got whose requests were under way, by message."""
    said = "; ".join(f"{n} x {message}" for message, n in found["told"].items())
    return f"{found['answered']} of these requests were answered whole. Errors: {said or 'none'}."


def _unexpected(blocks: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"- request {one['number']}: {one}"
        for block in blocks
        for one in (
            *block["wrong counts"],
            *block["unexpected"],
            *(x for x in block["answers"] if x["verdict"] != "equal"),
        )
    ]
    return ["Not as expected:", "", *lines, ""] if lines else []
