"""The efficiency bench in words, tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otprune_bench.efficiency.plan import CHECKED, KEEPS, SETTINGS, STAGED, WHOLE, Plan
from otprune_bench.figures.formats import mebibytes, spread_text
from otprune_bench.methods import TOKENS_ALONE, UNPRUNED
from otprune_bench.runs.cases import Results, failures
from otprune_bench.runs.environment import openmp
from otprune_bench.runs.report import COLORS, figure, table
from otprune_bench.timing.shapes import Shape

Figures = dict[str, Any]

HEAD = """# Efficiency: what pruning saves

Models of real sizes with **random weights, on a CPU**, in {dtype}, one image, batch 1: what a
model costs does not depend on what it knows, but GPUs were not measured and nothing here is said
about them. Times are medians of paired runs in one process, each round in an order of its own;
least and most of the rounds stand in brackets."""

OPERATIONS = """Counted: torch's `FlopCounterMode` on the whole model under eager attention, without
its last matrix (the head); a multiplication and an addition are two operations. Formula: the
literature's, `layers * (4 n d^2 + 2 n^2 d + 2 n d f)`, which takes them for one, leaves out the
third matrix of the MLP, and makes nothing of grouped heads. Selector: its matrix products, counted
likewise."""

TIMES = """Time to first token is encoder + selection + prefill: the encoder is timed by itself in
each round and is the same for all; the rest is one call of `generate` on its output. *Speed-up* is
against the unpruned run of the same round. *Selector / saved* is the selection's share of the
prefill time that pruning saved: above 100% pruning costs more than it gives. Answer: tokens per
second of the whole call, encoder and selection included, for an answer of {new} tokens."""

INSIDE = """The same models with a selection inside the encoder too (`otprune.EncoderStage`,
`DPPPrune`). *keep 0.35 after 0.25*: after a quarter of the encoder's layers 35% of the tokens
of each image or tile stay, and the other layers work on these alone. *whole*: no selection there.
In front of the language model all keep the same number of tokens, by {setting}. *First token*: one
call from pixels to the first token, everything included. *Encoder*: encoder and projector timed by
themselves, the selection inside included. *Of whole*: against *whole* in the same round. *CPU
time*: seconds that processors worked for this process, which other processes disturb less.
*Selection inside*: its time, as a share of the encoder's time with it, and of the *whole*
encoder's. The peak is the most bytes of tensors held at once beyond weights and inputs; the layers
in front of the selection have theirs as without it."""

BUSY = """The same calls beside two processes that do nothing but spin (*busy*) and without them
(*quiet*: with whatever else the machine does), with torch's and OpenMP's own settings: {settings}.
Time to first token without the encoder's: selection and prefill, in seconds."""

MEMORY = """KV cache: bytes in the model's own cache after the call. Peak: the most bytes of tensors
held at once beyond weights and inputs, selection included, without what one operation uses inside
itself."""

ALONE = """The selection alone as the engine asks for it (indices, masses, kept features), in
milliseconds. Token shapes of real models: 576 x 4096 is LLaVA-1.5-7B's, 1485 x 896
LLaVA-OneVision-0.5B's for a square image."""


def write(plan: Plan, figures: Figures, found: Results) -> str:
    """The report in Markdown."""
    head = [HEAD.format(dtype=plan.dtype), *failures(found)]
    inside = ["## Inside the encoder", INSIDE.format(setting=STAGED)]
    inside += [_inside(shape, plan, figures) for shape in plan.shapes]
    if plan.encoder_only:
        return "\n\n".join(head + inside)
    parts = [*head, "## Operations", OPERATIONS, _published(figures)]
    parts += [_operations(shape, figures) for shape in plan.shapes]
    parts += ["## Time", TIMES.format(new=plan.new)]
    for shape in plan.shapes:
        parts += [f"### {shape.name}", _about(shape, figures)]
        parts.append(f"![Time split of {shape.name}](time_{slug(shape.name)}.png)")
        parts.append(_times(shape, figures))
        parts += [BUSY.format(settings=openmp() or "none set"), _busy(shape.name, figures)]
        if shape.layers < shape.all_layers:
            parts.append(_extrapolated(shape, figures))
    parts += [*inside, "## Memory", MEMORY]
    parts += [_memory(shape, figures) for shape in plan.shapes]
    parts += ["## Selectors alone", ALONE, "![Selector times](selectors.png)"]
    parts += [_alone(m, d, figures) for m, d in plan.tokens]
    return "\n\n".join(parts)


def draw(folder: Path, plan: Plan, figures: Figures) -> None:
    """All plots."""
    if plan.encoder_only:
        return
    for shape in plan.shapes:
        _draw_split(folder, shape, figures)
    _draw_alone(folder, figures)


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return name.lower().replace(" ", "-")


# -- words and tables ------------------------------------------------------------------------------


def _published(figures: Figures) -> str:
    rows = [
        (visual, f"{one['published']:.3f}", f"{one['formula']:.4f}")
        for visual, one in figures["published TFLOP"].items()
    ]
    text = "LLaVA-1.5-7B as published, and by the formula (mean over the paper's eleven prompts):"
    return f"{text}\n\n" + table(["visual tokens", "published TFLOP", "formula"], rows)


def _operations(shape: Shape, figures: Figures) -> str:
    found = figures[f"{shape.name}/operations"]
    if "failed" in found:
        return f"{shape.name}: failed."
    rows = []
    whole = found["prompts"]["1.0"]["counted"]
    for keep, one in found["prompts"].items():
        rows.append(
            (
                keep,
                one["visual_tokens"],
                one["prompt_tokens"],
                f"{one['counted'] / 1e12:.4g}",
                f"{100 * one['counted'] / whole:.1f}%",
                f"{one['formula'] / 1e12:.4g}",
                f"{one['counted'] / one['formula']:.2f}",
                f"{one['selector'] / 1e9:.3g}",
            )
        )
    head = ["keep", "visual tokens", "prompt", "counted, TFLOP", "of unpruned", "formula, TFLOP"]
    head += ["counted / formula", "selector (otprune), GFLOP"]
    text = (
        f"{shape.name}, all {shape.all_layers} layers; encoder and projector: "
        f"{found['encoder'] / 1e12:.3g} TFLOP, counted."
    )
    return f"{text}\n\n{table(head, rows, numbers=0)}"


def _about(shape: Shape, figures: Figures) -> str:
    process = figures[f"{shape.name}/process"]
    encoder = figures[f"{shape.name}/encoder"]
    layers = _layers(shape)
    text = f"{layers[0].upper()}{layers[1:]} of the language model, "
    text += f"{shape.visual} visual tokens, {shape.text} of text."
    if "failed" not in process:
        text += f" {process['parameters'] / 1e6:,.4g} million parameters as run."
    if "failed" not in encoder:
        text += f" Encoder: {spread_text(encoder['seconds'])} s."
    checks = []
    for setting in CHECKED:
        pixels = figures[f"{shape.name}/from pixels/{setting}"]
        summed = figures[f"{shape.name}/{setting}"]
        if "failed" not in pixels and "failed" not in summed:
            one = pixels["first_token_seconds"]
            two = summed["first_token_seconds"]["median"]
            checks.append(f"{setting} {one:.3g} s (sum of parts {two:.3g} s)")
    if checks:
        text += (
            f" Check, one call from pixels to the first token, one run each: {', '.join(checks)}."
        )
    if max(one.get("processes", 1) for _, _, one in _settings(shape.name, figures)) > 1:
        text += " **The bench was resumed: these rounds are from more than one process.**"
    return text


def _inside(shape: Shape, plan: Plan, figures: Figures) -> str:
    head = ["encoder", "first token, s", "of whole", "of whole, CPU time"]
    head += ["encoder, s", "of whole", "of whole, CPU time"]
    head += ["selection inside, ms", "of the encoder", "of the whole encoder", "selector, ms"]
    head += ["peak of the encoder, MiB"]
    rows: list[list[object]] = []
    for label in plan.encoders:
        one = figures[f"{shape.name}/staged {label}"]
        peak = _mebibytes(figures[f"{shape.name}/memory/encoder {label}"], "peak_bytes")
        if "failed" in one:
            rows.append([label, "failed", *[""] * 9, peak])
            continue
        inside = ["", "", ""]
        if label != WHOLE:
            inside = [
                spread_text(one["inside_seconds"], 1e3),
                spread_text(one["inside_share"], 100) + "%",
                spread_text(one["inside_share_of_whole"], 100) + "%",
            ]
        rows.append(
            [
                label,
                spread_text(one["first_token_seconds"]),
                spread_text(one["first_token_share"]),
                spread_text(one["first_token_cpu_share"]),
                spread_text(one["encoder_seconds"]),
                spread_text(one["encoder_share"]),
                spread_text(one["encoder_cpu_share"]),
                *inside,
                spread_text(one["selector_seconds"], 1e3),
                peak,
            ]
        )
    text = f"{shape.name}, {_layers(shape)} of the language model, {STAGED} in front of it"
    whole = figures[f"{shape.name}/staged {WHOLE}"]
    if "failed" not in whole:
        text += f". Load average of the machine meanwhile: {spread_text(whole['load'])}"
    text += ":"
    return f"{text}\n\n" + table(head, rows, numbers=1)


def _layers(shape: Shape) -> str:
    run, full = shape.layers, shape.all_layers
    return f"{run} of {full} layers" if run < full else f"all {run} layers"


def _busy(name: str, figures: Figures) -> str:
    rows = []
    start = f"{name}/busy/"
    for key, one in figures.items():
        if not key.startswith(start):
            continue
        for state, calls in one.items():
            cells = ["failed", ""]
            if "failed" not in calls:
                cells = [
                    spread_text(calls["first_token_seconds"]),
                    spread_text(calls["selector_seconds"]),
                ]
            rows.append([key.removeprefix(start), state, *cells])
    return table(["", "", "first token, s", "selector, s"], rows, 2)


def _times(shape: Shape, figures: Figures) -> str:
    head = ["method", "keep", "prompt", "first token, s", "speed-up", "encoder, s", "selector, s"]
    head += ["prefill, s", "selector / saved", "decoding, tokens/s", "answer, tokens/s"]
    name = shape.name
    whole = figures[f"{name}/{UNPRUNED}"]
    rows: list[list[object]] = []
    for method, keep, one in _settings(name, figures):
        if "failed" in one:
            rows.append([method, keep, "failed", *[""] * 8])
            continue
        share = ""
        if method != UNPRUNED and "failed" not in whole:
            saved = whole["prefill_seconds"]["median"] - one["prefill_seconds"]["median"]
            cost = one["selector_seconds"]["median"]
            share = f"{100 * cost / saved:.1f}%" if saved > 0 else "nothing saved"
        rows.append(
            [
                method,
                keep,
                one["prompt_tokens"],
                spread_text(one["first_token_seconds"]),
                spread_text(one["speed_up"]),
                f"{figures[f'{name}/encoder']['seconds']['median']:.3g}",
                spread_text(one["selector_seconds"]) if method != UNPRUNED else "",
                spread_text(one["prefill_seconds"]),
                share,
                spread_text(one["decoding_tokens_per_second"]),
                spread_text(one["answer_tokens_per_second"]),
            ]
        )
    return table(head, rows, numbers=1)


def _extrapolated(shape: Shape, figures: Figures) -> str:
    """The same for all layers: what was measured once stays, what the layers took is scaled."""
    factor = shape.all_layers / shape.layers
    encoder = figures[f"{shape.name}/encoder"]
    rows = []
    first = None
    for method, keep, one in _settings(shape.name, figures):
        if "failed" in one or "failed" in encoder or method not in (UNPRUNED, "otprune"):
            continue
        selector = one["selector_seconds"]["median"]
        prefill = factor * one["prefill_seconds"]["median"]
        total = encoder["seconds"]["median"] + selector + prefill
        first = first or total
        rows.append(
            (
                method,
                keep,
                f"{total:.3g}",
                f"{first / total:.2f}",
                f"{100 * selector / total:.1f}%",
                f"{one['decoding_tokens_per_second']['median'] / factor:.3g}",
                f"{factor * one['cache_bytes'] / 2**20:.4g}",
            )
        )
    head = ["method", "keep", "first token, s", "speed-up", "selector's share"]
    head += ["decoding, tokens/s", "KV cache, MiB"]
    text = (
        f"**Extrapolated, not measured**: all {shape.all_layers} layers. Encoder and selection as "
        f"measured, prefill, decoding step and cache times {factor:g} (the head's share too, which "
        "is small)."
    )
    return f"{text}\n\n{table(head, rows)}"


def _memory(shape: Shape, figures: Figures) -> str:
    name = shape.name
    rows = []
    for method, keep, one in _settings(name, figures):
        setting = UNPRUNED if method == UNPRUNED else f"{method}@{keep}"
        peak = figures.get(f"{name}/memory/{setting}")
        if peak is None:
            continue
        cells = [_mebibytes(one, "cache_bytes"), _mebibytes(peak, "peak_bytes")]
        rows.append([method, keep, *cells])
    encoder = _mebibytes(figures[f"{name}/memory/encoder {WHOLE}"], "peak_bytes")
    process = _mebibytes(figures[f"{name}/process"], "largest_resident_bytes")
    text = (
        f"{name}, {shape.layers} layers. The encoder's own peak, pruned behind it or not: "
        f"{encoder} MiB. "
        f"Largest resident size of the process so far, weights and all: {process} MiB."
    )
    return f"{text}\n\n" + table(["method", "keep", "KV cache, MiB", "peak, MiB"], rows)


def _alone(m: int, d: int, figures: Figures) -> str:
    rows = []
    for method in TOKENS_ALONE:
        cells = [figures[f"tokens {m} x {d}/{method}@{keep}"] for keep in KEEPS]
        rows.append(
            [
                method,
                *("failed" if "failed" in x else spread_text(x["seconds"], 1e3) for x in cells),
            ]
        )
    return f"{m} tokens of {d} features:\n\n" + table(
        ["method", *(f"keep {keep}" for keep in KEEPS)], rows
    )


def _settings(name: str, figures: Figures) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, keep and figures of what was run through a model, in order."""
    found = []
    for setting in SETTINGS:
        method, _, keep = setting.partition("@")
        found.append((method, keep or "1.0", figures[f"{name}/{setting}"]))
    return found


def _mebibytes(x: dict[str, Any], key: str) -> str:
    return "failed" if "failed" in x else mebibytes(x[key])


# -- plots -----------------------------------------------------------------------------------------

PARTS: tuple[tuple[str, str, str], ...] = (
    ("encoder", "encoder", COLORS[7]),
    ("selector", "selector", COLORS[1]),
    ("prefill", "prefill (language model)", COLORS[0]),
)


def _draw_split(folder: Path, shape: Shape, figures: Figures) -> None:
    name = shape.name
    encoder = figures[f"{name}/encoder"]
    settings = [x for x in _settings(name, figures) if "failed" not in x[2]]
    if "failed" in encoder or not settings:
        return
    labels = [m if m == UNPRUNED else f"{m}, keep {k}" for m, k, _ in settings]

    def median(one: dict[str, Any], part: str) -> float:
        times = encoder["seconds"] if part == "encoder" else one[f"{part}_seconds"]
        return float(times["median"])

    height = 1.2 + 0.26 * len(labels)
    with figure(folder, f"time_{slug(name)}", size=(8, height)) as axes:
        left = [0.0] * len(labels)
        for part, label, color in PARTS:
            widths = [median(one, part) for _, _, one in settings]
            axes.barh(labels, widths, left=left, color=color, label=label, height=0.72)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        spans = [one["first_token_seconds"] for _, _, one in settings]
        axes.errorbar(
            left,
            labels,
            xerr=[
                [max(0.0, at - x["low"]) for at, x in zip(left, spans, strict=True)],
                [max(0.0, x["high"] - at) for at, x in zip(left, spans, strict=True)],
            ],
            fmt="none",
            ecolor="black",
            elinewidth=0.9,
            capsize=2,
            label="least and most",
        )
        axes.invert_yaxis()
        axes.margins(y=0.02)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("seconds to the first token (median)")
        axes.set_title(f"{name}, {_layers(shape)}, random weights, CPU", loc="left", fontsize=10)
        axes.legend(
            frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.45, -0.5 / height)
        )


def _draw_alone(folder: Path, figures: Figures) -> None:
    shapes = list(dict.fromkeys(k.partition("/")[0] for k in figures if k.startswith("tokens ")))
    with figure(folder, "selectors", size=(7.5, 4.2)) as axes:
        for i, shape in enumerate(shapes):
            for y, method in enumerate(TOKENS_ALONE):
                cells = [figures[f"{shape}/{method}@{keep}"] for keep in (0.098, 0.5)]
                if any("failed" in x for x in cells):
                    continue
                few, half = (1e3 * x["seconds"]["median"] for x in cells)
                at = y + 0.22 * (i - (len(shapes) - 1) / 2)
                color = COLORS[i]
                axes.plot([few, half], [at, at], color=color, linewidth=1.2)
                label = shape.removeprefix("tokens ") if y == 0 else None
                axes.plot(few, at, "o", color=color, markersize=6, label=label)
                axes.plot(half, at, "o", color=color, markersize=6, markerfacecolor="white")
        axes.set_yticks(range(len(TOKENS_ALONE)), list(TOKENS_ALONE))
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds an image (full: keep 0.098, hollow: keep 0.5)")
        axes.legend(
            title="tokens x features", frameon=False, loc="upper left", bbox_to_anchor=(1, 1)
        )
