"""The GPU bench in words, tables and plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from otprune.errors import MissingDependencyError
from otprune_bench.gpu.plan import (
    ENCODER,
    EXACT,
    FLASH,
    GRAM,
    KEEPS,
    LEAST,
    OURS,
    PUBLISHED,
    SKETCHED,
    STAGED,
    Model,
    Plan,
    Point,
)
from otprune_bench.gpu.summary import (
    NOT_RUN,
    first_token,
    median,
    prefill,
    raced,
    result_of,
    share_of_saved,
    speed_up,
    targets,
)
from otprune_bench.runs.cases import Results, failures
from otprune_bench.runs.report import COLORS, check_plots, figure, table

HEAD = """# On a GPU: the same choices, and what they cost

{card}

*Exact* is `OTPrune(k, gamma=0.01)`, *sketched* the same with `rank="auto"`; *CUDA graph* is the
same call captured once and replayed; *published, as written* is the algorithm of the paper line by
line in float32, image by image.{expected}{plots}"""

CPU = """**This run was on a CPU**, to see that the script works. No time in it says anything about
a GPU, and no target is answered."""

CHECKS = """## Checks

An end-to-end check in which other tokens were kept compares other prompts: its difference is no
error of the model. TF32 is a setting of the caller's; what it changes is shown, not judged.

What the device keeps beside what the CPU keeps in float32, from the same rounded tokens; batches
beside their rows. Two different sets count as a *near tie* where their objectives, in float64 on
the CPU, differ by at most 1e-5 of their size."""

SELECT = """## Selection

Milliseconds a call, median [least, most], by the device's own events from an idle device and with
its L2 cache overwritten. *Of bytes* is the time over that of reading the float32 tokens once at the
bandwidth measured here; the Gram product alone is the other floor."""

MODELS = """## Models

Random weights made on the device, whole models. *From pixels* is the time to the first token of a
whole call; where it was not run (batches) it is the sum of encoder, selection and prefill, marked
by a tilde. Memory is the most that torch held in a call behind the encoder, weights included.
*Of what is saved*: selection over the prefill that pruning saves."""

KERNELS = """## Launch by launch

One call of `select` seen by torch.profiler: time in kernels, and between them, when the device
waits for the host. Profiling makes the host slower, so the time between is an upper bound."""


def write(plan: Plan, found: Results, expected: Mapping[str, float]) -> str:
    """The report in Markdown."""
    parts = [
        HEAD.format(
            card=_card(found.get("card", {})),
            expected=_expected(plan, expected),
            plots=f" {why}" if (why := _plots()) else "",
        ),
        *([CPU] if plan.device != "cuda" else []),
        _targets(plan, found),
        *failures(found),
        _skipped(found),
        CHECKS,
        _checks(found),
        SELECT,
        *(_raced(plan, point, found) for point in plan.points),
        _frames(found),
        MODELS,
        *(_model(plan, model, found) for model in plan.models),
        KERNELS,
        _kernels(found),
    ]
    return "\n\n".join(part for part in parts if part)


def dry_run(plan: Plan, expected: Mapping[str, float]) -> str:
    """What each case is expected to take, and all of them."""
    rows = [(key, f"{seconds:.1f}") for key, seconds in expected.items()]
    total = sum(expected.values())
    said = f"{total:.0f} s of {60 * plan.minutes:.0f} s" if plan.minutes else f"{total:.0f} s"
    return (
        table(("case", "expected seconds"), [*rows, ("all", f"{total:.1f}")])
        + f"\n\nExpected on a H100-class card, counted and not measured: {said}."
    )


def draw(folder: Path, plan: Plan, found: Results) -> None:
    """Two plots, where matplotlib is installed: selection, and time to first token."""
    if _plots():
        return
    points = [p for p in plan.points if raced(found, p, EXACT)]
    if points:
        with figure(folder, "selection", (8.5, 4.5)) as axes:
            for color, name in zip(COLORS, (PUBLISHED, *OURS, SKETCHED, GRAM), strict=False):
                known = [(p.name, raced(found, p, name)) for p in points]
                some = [(x, 1e3 * median(y)) for x, y in known if y]
                if some:
                    axes.plot(*zip(*some, strict=True), "o-", ms=4, color=color, label=name)
            axes.set_yscale("log")
            axes.set_ylabel("milliseconds a call")
            axes.tick_params(axis="x", rotation=30)
            axes.legend(frameon=False)
    with figure(folder, "first_token", (7.5, 4.5)) as axes:
        for model in plan.models:
            for attention in plan.attentions:
                some = [
                    (str(keep), first)
                    for keep in KEEPS
                    if (first := first_token(model, attention, 1, keep, found)) is not None
                ]
                if some:
                    label = f"{model.name}, {model.visual}, {attention}"
                    axes.plot(*zip(*some, strict=True), "o-", ms=4, label=label)
        axes.set_xlabel("keep")
        axes.set_ylabel("seconds to the first token")
        if axes.has_data():
            axes.legend(frameon=False)


# -- parts -----------------------------------------------------------------------------------------


def _targets(plan: Plan, found: Results) -> str:
    rows = [target.row(real=plan.device == "cuda") for target in targets(plan, found)]
    head = ("target", "asked for", "measured", "by", "")
    return "## Targets\n\n" + table(head, rows, 5)


def _card(about: Mapping[str, Any]) -> str:
    if "device" not in about:
        return "What the device is, is not known: its case was not run."
    rates = ", ".join(
        f"{about[key] / 1e12:.3g} x 10^12 {key}"
        for key in about
        if key.startswith(("bytes a second", "operations"))
    )
    known = ", ".join(
        f"{key} {value}"
        for key, value in about.items()
        if value is not None and not key.startswith(("bytes a second", "operations"))
    )
    missing = [key for key in ("triton", "transformers", "flash_attn") if about.get(key) is None]
    lacks = f" Not installed: {', '.join(missing)}." if missing else ""
    return f"{known}. Measured: {rates}.{lacks}"


def _expected(plan: Plan, expected: Mapping[str, float]) -> str:
    if plan.device != "cuda":
        return ""
    return (
        f" All cases were expected to take {sum(expected.values()):.0f} s on a H100-class card, "
        "counted from operations and bytes."
    )


def _plots() -> str:
    """Why there are no plots; empty if there can be."""
    try:
        check_plots()
    except MissingDependencyError as cause:
        return f"No plots: {cause}."
    return ""


def _skipped(found: Results) -> str:
    """What was not run, reason by reason."""
    reasons: dict[str, list[str]] = {}
    for key, result in found.items():
        if "skipped" in result:
            reasons.setdefault(result["skipped"], []).append(f"`{key}`")
    if not reasons:
        return ""
    lines = [f"- {reason}: {_few(keys)}" for reason, keys in reasons.items()]
    return "\n".join(["## Not run", "", *lines])


def _few(keys: list[str], most: int = 4) -> str:
    more = f" and {len(keys) - most} others" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _state(result: Mapping[str, Any]) -> str:
    if "skipped" in result:
        return NOT_RUN
    if "failed" in result:
        return "**failed**"
    return "agrees" if result["agrees"] else "**differs**"


def _checks(found: Results) -> str:
    rows, lines = [], []
    for key, result in found.items():
        if not key.startswith("check/"):
            continue
        name = key.removeprefix("check/")
        ties = result.get("ties", [])
        near = sum(tie["near"] for tie in ties)
        sets = f"{result['equal']} of {result['sets']}" if "sets" in result else ""
        rows.append((name, _state(result), sets, near or "", len(ties) - near or ""))
        lines += [f"- {name}, {_tie(tie)}" for tie in ties]
        lines += [f"- {name}: {said}" for said in _said(result)]
    made = table(("check", "", "equal sets", "near ties", "others"), rows, 2)
    return "\n\n".join([made, "\n".join(lines)])


def _tie(tie: Mapping[str, Any]) -> str:
    """One difference, in words."""
    relative = tie["relative"]
    if relative is None:
        return f"{tie['where']}: other tokens, and the method has no objective to compare by"
    kind = "near tie" if tie["near"] else "**another choice**"
    return (
        f"{tie['where']}: {kind}; {tie['only expected']} became {tie['only found']}, objective "
        f"{tie['expected value']:.12g} became {tie['found value']:.12g}, relative {relative:.1e}"
    )


def _said(result: Mapping[str, Any]) -> Iterable[str]:
    """What checks that are no comparison of sets found."""
    for name in ("waited", "failed to capture"):
        yield from result.get(name, ())
    if waits := result.get("waits of select"):
        most = ", ".join(f"{name} {number}" for name, number in waits.items())
        yield f"times that `select` as a whole waits for the device: {most}"
    for name in ("methods", "ways", "dtypes"):
        for what, figures in result.get(name, {}).items():
            yield f"{what}: " + ", ".join(f"{key} {_short(x)}" for key, x in figures.items())
    for name in ("select_video", "StreamSelector"):
        if name in result:
            yield f"{name}: " + ", ".join(f"{key} {_short(x)}" for key, x in result[name].items())
    if errors := result.get("errors"):
        yield "largest error of a logit: " + ", ".join(f"{k} {x:.1e}" for k, x in errors.items())


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "**no**", None: "-"}[value]
    return f"{value:.3g}"


def _raced(plan: Plan, point: Point, found: Results) -> str:
    result = found.get(f"select/{point.name}", {})
    if "seconds" not in result:
        return ""
    rate = found.get("card", {}).get("bytes a second")
    floor = result["bytes read"] / rate if rate else None
    published = raced(found, point, PUBLISHED)
    rows = []
    for name, seconds in result["seconds"].items():
        middle = median(seconds)
        spread = f"{1e3 * middle:.3g} [{1e3 * min(seconds):.3g}, {1e3 * max(seconds):.3g}]"
        ratio = f"{middle / median(published):.3g}" if published else "-"
        rows.append((name, spread, ratio, f"{middle / floor:.3g}" if floor else "-"))
    head = ("", "ms", "of the published", "of bytes")
    left = [f"- left out: {name}, {reason}" for name, reason in result["left out"].items()]
    return "\n\n".join(
        [f"### {point.name}", table(head, rows), *(["\n".join(left)] if left else [])]
    )


def _frames(found: Results) -> str:
    result = found.get("select/frames", {})
    if "select_video" not in result:
        return ""
    lines = [
        f"- {name}: {1e3 * median(result[name]):.3g} ms"
        for name in ("select_video", "a step of a stream")
    ]
    return "\n".join(["### Frames", "", *lines])


def _model(plan: Plan, model: Model, found: Results) -> str:
    parts = []
    head = (
        "keep",
        "from pixels, ms",
        "faster",
        "encoder, ms",
        "selection, ms",
        "prefill, ms",
        "of what is saved",
        "tokens a second",
        "memory, GiB",
    )
    for attention in plan.attentions:
        for batch in model.batches:
            rows = [
                row
                for what in (*KEEPS, STAGED)
                if (row := _model_row(model, attention, batch, what, found)) is not None
            ]
            if rows:
                said = "flash" if attention == FLASH else attention
                title = f"### {model.name}, {model.visual} tokens, batch {batch}, {said}"
                parts.append(f"{title}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def _model_row(
    model: Model, attention: str, batch: int, what: Any, found: Results
) -> tuple[str, ...] | None:
    result = result_of(model, attention, batch, what, found)
    if not result:
        return None
    inside = what == STAGED  # the encoder is another one there
    encoder = result_of(model, attention, batch, ENCODER, found).get("seconds")
    pruned = isinstance(what, float) and what < 1
    first = first_token(model, attention, batch, what, found)
    gain = speed_up(model, attention, batch, what, found)
    share = share_of_saved(model, attention, batch, what, found) if pruned else None
    behind, decode, peak = prefill(result), result.get("decode"), result.get("peak bytes")
    return (
        f"{LEAST}, encoder stage" if inside else str(what),
        "-" if first is None else f"{'' if 'first' in result else '~'}{1e3 * first:.4g}",
        "-" if gain is None else f"{gain:.2f}x",
        "-" if encoder is None or inside else f"{1e3 * median(encoder):.4g}",
        "-" if "selection" not in result else f"{1e3 * median(result['selection']):.3g}",
        "-" if behind is None else f"{1e3 * behind:.4g}",
        "-" if share is None else f"{share:.2%}",
        "-" if not decode else f"{batch / decode:.4g}",
        "-" if peak is None else f"{peak / 2**30:.3g}",
    )


def _kernels(found: Results) -> str:
    rows, parts = [], []
    for key, result in found.items():
        if not key.startswith("kernel/") or "skipped" in result or "failed" in result:
            continue
        name = key.removeprefix("kernel/")
        if "launches" in result:
            busy, idle = result["seconds in kernels"], result["seconds between"]
            rows.append(
                (
                    name,
                    result["launches"],
                    f"{1e3 * busy:.3g}",
                    f"{1e3 * idle:.3g}",
                    f"{1e6 * (busy + idle) / result['picks']:.3g}",
                )
            )
            most = ", ".join(
                f"`{one['name']}` {one['launches']} x, {1e3 * one['seconds']:.3g} ms"
                for one in result["kernels"][:5]
            )
            parts.append(f"- {name}: {most}")
        else:
            told = ", ".join(f"{what} {_told(x)}" for what, x in result.items())
            parts.append(f"- {name}: {told}")
    head = ("", "launches", "in kernels, ms", "between, ms", "a pick, microseconds")
    return "\n\n".join([*([table(head, rows)] if rows else []), "\n".join(parts)])


def _told(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
