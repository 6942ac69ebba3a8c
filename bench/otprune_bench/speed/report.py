"""The speed bench in words, tables and plots."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from otprune_bench.figures.formats import mebibytes, spread_text
from otprune_bench.figures.plots import legend_beside
from otprune_bench.methods import UNPRUNED
from otprune_bench.runs.cases import Results, failures
from otprune_bench.runs.environment import openmp
from otprune_bench.runs.report import COLORS, panels, table
from otprune_bench.speed.plan import (
    BATCH,
    BATCH_TARGET,
    BUSY,
    BUSY_TARGETS,
    KEEPS,
    QUIET,
    TARGETS,
    TRANSPORT_TARGET,
    Plan,
    Sweep,
    key,
    real_key,
)
from otprune_bench.timing.race import EXACT, SKETCHED, TRANSCRIPTION

Figures = dict[str, Any]
LEAST = min(KEEPS)  # the ratio of the table of models
LOOKS = {
    TRANSCRIPTION: {"color": COLORS[7], "marker": "s"},
    EXACT: {"color": COLORS[0], "marker": "o"},
    SKETCHED: {"color": COLORS[1], "marker": "^"},
}

HEAD = """# Speed: what selection costs

*Transcription* is the published algorithm written down plainly in float32, image by image;
*exact* is `OTPrune(k, gamma=0.01)`, *sketched* the same with `rank="auto"`. Contenders take turns
within a case; times are medians with least and most in brackets, ratios are taken round by round
and are medians too. On a CPU: nothing is said about GPUs. Memory is the most bytes of tensors held
at once beyond the tokens. Load average of the machine, case by case: {load}."""

TARGETS_TEXT = """## Targets

Time relative to the transcription's, beside what it should be at most. The *Gram matrix alone*,
one product of m x m x d, is what the transcription and most peers cannot go below; TransportPrune
should take at most {transport} times the exact path at (2340, 4096, 229)."""

BUSY_TEXT = """## Beside two busy processes

The same race alone (*quiet*: with whatever else the machine does) and beside two processes that do
nothing but spin, with torch's and OpenMP's own settings: {settings}. The target is for the exact
path, relative to the transcription beside the same processes."""

MANY = """## Many tokens

Methods that look at all pairs of tokens, beside `OTPrune(k)`; seconds."""

REAL = """## What the sketched path's choice is worth

Value of the objective of what the sketched path keeps, relative to what the exact path keeps, on
tokens of the pretrained ViT-S/14 (`otprune fetch vit-s`) of the sample photographs: mean, and the
least of them in brackets."""

SCALING = """## Scaling

Exponents p of `time ~ axis^p` by least squares on the logarithms, from the value on that stands
beside them; - where a contender was not run (the slow ones end early) or has too few points."""

MODELS = """## Share of the time to first token

{keep:.1%} of the visual tokens kept, one image, bfloat16, random weights, batch 1.
**Measured**: the whole image encoder, the selection on bfloat16 tokens, one layer of the language
model at the prompt's length. **Derived**: prefill, as that layer's time times the number of layers,
and with it time to first token and the shares. *Of what is saved*: selection over the prefill time
that pruning saves; above 100% it would cost more than it gives."""


def write(plan: Plan, figures: Figures, found: Results) -> str:
    """The report in Markdown."""
    loads = [one["load"] for one in figures.values() if "load" in one]
    load = f"{min(loads):.1f} to {max(loads):.1f}" if loads else "not known"
    parts = [HEAD.format(load=load), *failures(found), _targets(plan, figures)]
    if plan.busy:
        parts += [BUSY_TEXT.format(settings=openmp() or "none set"), _busy(plan, figures)]
    if plan.many:
        parts += [MANY, _many(plan, figures)]
    if plan.real:
        parts += [REAL, _real(plan, figures)]
    parts += [SCALING, "![Time and memory](scaling.png)", _exponents(plan, figures)]
    for name, sweep in plan.sweeps.items():
        parts.append(f"### {name[0].upper()}{name[1:]}\n\n{_sweep(name, sweep, figures)}")
    if any(_numeric(sweep) and sweep.axis != "m" for sweep in plan.sweeps.values()):
        parts.append("![The other axes](axes.png)")
    parts += [MODELS.format(keep=LEAST), _models(plan, figures)]
    parts.append("![Time to first token; above the bars the share of selection](models.png)")
    return "\n\n".join(parts)


def draw(folder: Path, plan: Plan, figures: Figures) -> None:
    """All plots."""
    along = {name: sweep for name, sweep in plan.sweeps.items() if sweep.axis == "m"}
    others = {n: s for n, s in plan.sweeps.items() if _numeric(s) and s.axis != "m"}
    with panels(folder, "scaling", 1, 2, (11, 4.6)) as (times, memory):
        for style, (name, sweep) in zip(("-", "--"), along.items(), strict=False):
            for contender in LOOKS:
                x, y = curve(name, sweep, figures, contender, _seconds)
                said = f"{contender}, {name.removeprefix('tokens, ')}"
                power = exponent(x, y, sweep.fit)
                if power is not None:
                    said += f": $m^{{{power:.2f}}}$"
                times.plot(x, [1e3 * v for v in y], style, label=said, ms=4, **LOOKS[contender])
                x, y = curve(name, sweep, figures, contender, _bytes)
                memory.plot(x, [v / 2**20 for v in y], style, ms=4, **LOOKS[contender])
        for axes, said in ((times, "ms"), (memory, "peak memory, MiB")):
            _logarithmic(axes, "tokens m", said)
        times.legend(frameon=False, fontsize=8)
    if others:
        with panels(folder, "axes", 1, len(others), (3.8 * len(others), 3.6)) as grid:
            for axes, (name, sweep) in zip(grid, others.items(), strict=True):
                for contender in LOOKS:
                    x, y = curve(name, sweep, figures, contender, _seconds)
                    power = exponent(x, y, sweep.fit)
                    said = contender + (f": ${sweep.axis}^{{{power:.2f}}}$" if power else "")
                    axes.plot(x, [1e3 * v for v in y], label=said, ms=4, **LOOKS[contender])
                _logarithmic(axes, f"{name} ({sweep.axis})", "ms")
                axes.legend(frameon=False, fontsize=8)
    _draw_models(folder, plan, figures)


def _logarithmic(axes: Any, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    if any(len(line.get_xdata()) for line in axes.lines):  # all may have failed
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")


# -- curves and exponents --------------------------------------------------------------------------


def curve(
    name: str,
    sweep: Sweep,
    figures: Figures,
    contender: str,
    what: Callable[[dict[str, Any], str], float | None],
) -> tuple[list[float], list[float]]:
    """A contender's figure along a sweep, where it was run and did not fail."""
    pairs = []
    for point in sweep.points:
        one = figures[f"{name}/{point.name}"]
        value = None if "failed" in one else what(one, contender)
        if value is not None:
            pairs.append((float(getattr(point, sweep.axis)), value))
    return [x for x, _ in pairs], [y for _, y in pairs]


def exponent(x: list[float], y: list[float], fit: float) -> float | None:
    """p of `y ~ x^p` over the points from `fit` on; None for fewer than three."""
    some = [(log(a), log(b)) for a, b in zip(x, y, strict=True) if a >= fit]
    if len(some) < 3:
        return None
    a, b = np.array(some).T
    return float(np.polyfit(a, b, 1)[0])


def _seconds(one: dict[str, Any], contender: str) -> float | None:
    return one["seconds"][contender]["median"] if contender in one["seconds"] else None


def _bytes(one: dict[str, Any], contender: str) -> float | None:
    value: float | None = one["peak_bytes"].get(contender)
    return value


def _numeric(sweep: Sweep) -> bool:
    return sweep.axis in ("m", "d", "k", "B")


def _exponents(plan: Plan, figures: Figures) -> str:
    rows = []
    for name, sweep in plan.sweeps.items():
        if not _numeric(sweep):
            continue
        for what, read in (("time", _seconds), ("memory", _bytes)):
            powers = [
                exponent(*curve(name, sweep, figures, contender, read), sweep.fit)
                for contender in LOOKS
            ]
            cells = ["-" if p is None else f"{sweep.axis}^{p:.2f}" for p in powers]
            rows.append([name, what, f"{sweep.axis} >= {sweep.fit}", *cells])
    return table(["sweep", "", "fitted from", *LOOKS], rows, 3)


# -- tables ----------------------------------------------------------------------------------------


def _targets(plan: Plan, figures: Figures) -> str:
    parts = [TARGETS_TEXT.format(transport=TRANSPORT_TARGET)]
    for shape in plan.targets:
        wanted = TARGETS.get(shape, {})
        parts.append(f"### {shape}")
        parts.append(_contenders(figures[key("target", *shape)], wanted))
    batch, *shape3 = plan.batch
    parts.append(f"### A batch of {batch} at ({', '.join(map(str, shape3))})")
    parts.append(
        "The transcription takes its images one by one, and so are their Gram matrices made."
    )
    wanted = {EXACT: BATCH_TARGET} if plan.batch == BATCH else {}
    parts.append(_contenders(figures[key("target", *plan.batch)], wanted))
    return "\n\n".join(parts)


def _busy(plan: Plan, figures: Figures) -> str:
    rows = []
    for shape in plan.busy:
        one = figures[key("busy", *shape)]
        if "failed" in one:
            rows.append([str(shape), f"failed: {one['failed']}", *[""] * 6])
            continue
        quiet, busy = one[QUIET], one[BUSY]
        for name, seconds in busy["seconds"].items():
            most = BUSY_TARGETS.get(shape) if name == EXACT else None
            ratios = [part["ratio"].get(name) for part in (quiet, busy)]
            cells = ["" if r is None else spread_text(r) for r in ratios] + ["", ""]
            if most is not None:
                met = ratios[1]["median"] <= most
                cells[2:] = [f"<= {most:g}", "met" if met else "**missed**"]
            rows.append([str(shape), name, _ms(quiet["seconds"][name]), _ms(seconds), *cells])
    head = ["(B, m, d, k)", "", "quiet, ms", "busy, ms"]
    head += ["of the transcription's, quiet", "busy", "target, busy", ""]
    return table(head, rows, 3)


def _many(plan: Plan, figures: Figures) -> str:
    rows = []
    for shape in plan.many:
        one = figures[key("many", *shape)]
        if "failed" in one:
            rows.append([str(shape), f"failed: {one['failed']}", ""])
            continue
        rows += [[str(shape), name, spread_text(s)] for name, s in one["seconds"].items()]
    return table(["(m, d, k)", "", "s"], rows, 2)


def _real(plan: Plan, figures: Figures) -> str:
    rows = []
    for size in plan.real:
        one = figures[real_key(size)]
        if "failed" in one:
            rows.append([real_key(size), *["failed"] * 2])
            continue
        shares = one["shares"].values()
        cells = [f"{statistics.mean(x):.4f} [{min(x):.4f}]" for x in shares]
        rows.append([f"({one['m']}, {one['d']}, {one['k']})", *cells])
    return table(["(m, d, k)", "gamma 0.01", "gamma scaled"], rows)


def _contenders(one: dict[str, Any], wanted: dict[str, float]) -> str:
    if "failed" in one:
        return f"Failed: {one['failed']}"
    rows = []
    for name, seconds in one["seconds"].items():
        ratio, most = one["ratio"].get(name), wanted.get(name)
        cells = ["", "", ""]
        if ratio is not None:
            cells[0] = spread_text(ratio)
            if most is not None:
                cells[1:] = [f"<= {most:g}", "met" if ratio["median"] <= most else "**missed**"]
        rows.append([name, _ms(seconds), *cells, mebibytes(one["peak_bytes"].get(name))])
    head = ["", "ms", "of the transcription's", "target", "", "peak memory, MiB"]
    said = []
    if "transport to exact" in one:
        said.append(f"Transport / exact: {one['transport to exact']['median']:.3g}.")
    said += [
        f"Objective of {name} / exact: {value:.4f}."
        for name, value in one.get("objectives", {}).items()
        if name != EXACT
    ]
    return "\n\n".join([table(head, rows), *([" ".join(said)] if said else [])])


def _sweep(name: str, sweep: Sweep, figures: Figures) -> str:
    rows = []
    for point in sweep.points:
        one = figures[f"{name}/{point.name}"]
        row = [getattr(point, sweep.axis)]
        for contender in LOOKS:
            if "failed" in one:
                row += ["failed", ""]
            elif contender not in one["seconds"]:
                row += ["-", "-"]
            else:
                row += [_ms(one["seconds"][contender]), mebibytes(one["peak_bytes"][contender])]
        rows.append(row)
    sides = [f"{p.B} x ({p.m}, {p.d}, {p.k})" for p in (sweep.points[0], sweep.points[-1])]
    where = sides[0] if sides[0] == sides[1] else f"{sides[0]} to {sides[1]}"
    head = [sweep.axis, *(f"{c}, {unit}" for c in LOOKS for unit in ("ms", "MiB"))]
    return f"B x (m, d, k): {where}.\n\n{table(head, rows, 0)}"


def _ms(seconds: dict[str, Any]) -> str:
    return spread_text(seconds, 1e3, digits=4)


# -- models ----------------------------------------------------------------------------------------


def first_token(one: dict[str, Any], keep: float) -> dict[str, dict[str, float]]:
    """Encoder, selection, prefill in seconds: unpruned, and with each contender at `keep`."""
    runs = {name: statistics.median(values) for name, values in one["runs"].items()}
    encoder, layers = statistics.median(one["encoder"]), one["layers"]
    whole, less = (layers * runs[f"layer@{share}"] for share in (1.0, keep))
    split = {UNPRUNED: {"encoder": encoder, "selection": 0.0, "prefill": whole}}
    for contender in LOOKS:
        selection = runs.get(f"{contender}@{keep}")
        if selection is not None:
            split[contender] = {"encoder": encoder, "selection": selection, "prefill": less}
    return split


def _models(plan: Plan, figures: Figures) -> str:
    rows = []
    for model in plan.models:
        shape = model.shape
        one = figures[f"model/{shape.name}"]
        if "failed" in one:
            rows.append([shape.name, "failed", *[""] * 6])
            continue
        split = first_token(one, LEAST)
        whole = split[UNPRUNED]
        for name, parts in split.items():
            total = sum(parts.values())
            saved = whole["prefill"] - parts["prefill"]
            cells: Iterable[str] = (
                (f"{parts['selection'] / total:.2%}", f"{parts['selection'] / saved:.2%}")
                if saved > 0
                else ("", "")
            )
            rows.append(
                [
                    f"{shape.name}, {shape.visual} x {shape.width}",
                    name,
                    f"{parts['encoder']:.2f}",
                    f"{1e3 * parts['selection']:.1f}" if parts["selection"] else "",
                    f"{parts['prefill']:.2f}",
                    f"{total:.2f}",
                    *cells,
                ]
            )
    head = ["model", "", "encoder, s", "selection, ms", "prefill, s", "first token, s"]
    return table([*head, "selection's share", "of what is saved"], rows, 2)


def _draw_models(folder: Path, plan: Plan, figures: Figures) -> None:
    good = [m for m in plan.models if "failed" not in figures[f"model/{m.shape.name}"]]
    if not good:
        return
    with panels(folder, "models", 1, len(good), (3.4 * len(good) + 1.4, 3.6)) as grid:
        for axes, model in zip(grid, good, strict=True):
            split = first_token(figures[f"model/{model.shape.name}"], LEAST)
            for i, parts in enumerate(split.values()):
                below = 0.0
                for color, (what, seconds) in zip(COLORS[:3], parts.items(), strict=True):
                    said = what if i == 0 else None
                    axes.bar(i, seconds, bottom=below, color=color, label=said, width=0.7)
                    below += seconds
                top = f"{parts['selection'] / below:.1%}" if parts["selection"] else ""
                axes.text(i, below, top, ha="center", va="bottom", fontsize=8)
            axes.set_xticks(range(len(split)), list(split), rotation=20, fontsize=8)
            axes.set(title=model.shape.name, ylabel="time to first token, s")
        legend_beside(grid[-1])
