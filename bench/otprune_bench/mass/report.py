"""The report of `otprune bench mass`. Its sentences follow from the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from otprune_bench.embedded.evaluation import EMBEDDED
from otprune_bench.embedded.tasks import ALL, KINDS
from otprune_bench.figures.formats import in_points, percent, quoted
from otprune_bench.figures.plots import MARKERS, apart, error_bars, keep_axis
from otprune_bench.mass.plan import AT_LENGTH, FORMS, WEIGHINGS, Setting
from otprune_bench.mass.summary import Summary
from otprune_bench.methods import NAMES
from otprune_bench.runs.cases import failures
from otprune_bench.runs.report import COLORS, figure, panels, table

SELECTORS = ("otprune", "transport", "divprune", "dpp")  # what anybody would choose from
TARGETS = {0.098: 0.97, 0.05: 0.93}  # least share of the unpruned accuracy wanted in every kind
# Forms and weighings that are compared with tokens as kept without mass.
COMPARED = (
    ("as kept", "total"),
    ("as kept", "token"),
    ("as kept", "token, shuffled"),
    ("merged", "none"),
    ("merged", "total"),
    ("merged", "token"),
)


def write(summary: Summary) -> str:
    """The report in Markdown."""
    parts = [
        *_head(summary),
        *_effects(summary),
        *_kinds(summary),
        *_models(summary),
        *_lengths(summary),
        *_choice(summary),
        *failures(summary.results),
    ]
    return "\n".join(parts)


def _head(summary: Summary) -> list[str]:
    plan = summary.plan
    rows = [
        [model, *(percent(summary.mean(summary.unpruned(model, n))) for n in plan.before)]
        for model in plan.names
    ]
    return [
        "# Attention mass: what the kept tokens weigh\n",
        f"{plan.images} {plan.split} images, {len(summary.questions.kind)} questions of "
        f"{len(KINDS)} kinds, as in `otprune bench alignment`. `total` adds log(m/k) to the "
        "attention logits of all kept tokens, `token` log(n_j), n_j the number of tokens that j "
        "stands for; `shuffled` gives each kept token another one's mass; alpha scales the "
        "logarithm. ± is one standard error, clustered by image.\n",
        "Unpruned, right answers in %, alone and behind other questions that tell nothing about "
        "the one asked, with their answers (mean number of text tokens in brackets):\n",
        table(["model", *(f"{n} before ({summary.text_tokens[n]:.0f})" for n in plan.before)], rows)
        + "\n",
    ]


def _effects(summary: Summary) -> list[str]:
    parts = ["## Every selector\n", f"Model `{EMBEDDED}`, a question alone.\n"]
    for keep in summary.plan.keeps:
        for form in FORMS:
            rows = []
            for name in NAMES:
                if Setting(name, form, "none") not in summary.settings(keep):
                    continue
                base = summary.right(EMBEDDED, 0, keep, Setting(name, form, "none"))
                gains = [
                    summary.mean(summary.right(EMBEDDED, 0, keep, Setting(name, form, w)) - base)
                    for w in WEIGHINGS
                    if w != "none"
                ]
                rows.append([f"`{name}`", percent(summary.mean(base)), *map(in_points, gains)])
            head = [f"keep {keep:g}, {form}", "none, %", *(w for w in WEIGHINGS if w != "none")]
            parts.append(table(head, rows) + "\n")
    return parts


def _kinds(summary: Summary) -> list[str]:
    parts = [
        "## By kind of question\n",
        f"Share of the unpruned accuracy, %, mean of {quoted(SELECTORS)}; model `{EMBEDDED}`.\n",
    ]
    for keep in AT_LENGTH:
        rows = []
        for form in FORMS:
            for weighing in WEIGHINGS:
                settings = [Setting(name, form, weighing) for name in SELECTORS]
                cells = [
                    percent(summary.retained(EMBEDDED, 0, keep, settings, group))
                    for group in (*KINDS, ALL)
                ]
                rows.append([f"{form}, {weighing}", *cells])
        parts.append(table([f"keep {keep:g}", *KINDS, "all"], rows) + "\n")
    return parts


def _models(summary: Summary) -> list[str]:
    rows = []
    for model in summary.plan.names:
        for keep in AT_LENGTH:
            cells = [
                in_points(summary.effect(model, 0, keep, SELECTORS, form, weighing))
                for form, weighing in COMPARED
            ]
            rows.append([model, f"{keep:g}", *cells])
    head = ["model", "keep", *(f"{form}, {weighing}" for form, weighing in COMPARED)]
    return [
        "## Other models\n",
        f"Points of accuracy that a setting adds to tokens as kept without mass, mean of "
        f"{quoted(SELECTORS)}.\n",
        table(head, rows, numbers=2) + "\n",
        "![effect against the share of tokens kept](keeps.png)\n",
    ]


def _lengths(summary: Summary) -> list[str]:
    rows = []
    for model in summary.plan.names:
        for keep in AT_LENGTH:
            for before in summary.plan.before:
                base = np.mean(
                    [
                        summary.right(model, before, keep, Setting(name, "as kept", "none"))
                        for name in SELECTORS
                    ],
                    axis=0,
                )
                gains = [
                    summary.effect(model, before, keep, SELECTORS, form, w)
                    for form in FORMS
                    for w in ("total", "token")
                ]
                words = f"{summary.text_tokens[before]:.0f}"
                rows.append(
                    [model, f"{keep:g}", words, percent(summary.mean(base)), *map(in_points, gains)]
                )
    head = ["model", "keep", "text tokens", "as kept, none, %"]
    head += [f"{form}, {weighing}" for form in FORMS for weighing in ("total", "token")]
    return [
        "## Behind other text\n",
        "The more text stands beside the image, the more of the attention a pruned image "
        "could lose to it. Points of accuracy against tokens as kept without mass, mean of "
        f"{quoted(SELECTORS)}.\n",
        table(head, rows, numbers=2) + "\n",
        "![effect against text tokens](lengths.png)\n",
    ]


def _choice(summary: Summary) -> list[str]:
    parts = [
        "## What to choose\n",
        "Settings by the mean over models of the share of unpruned accuracy kept, the best "
        "fifteen; the least share in any kind and the average rank over kinds (1 the best of "
        f"{len(summary.settings(0.098))}) are those of `{EMBEDDED}`.\n",
    ]
    for keep, least in TARGETS.items():
        ranks = summary.ranks(keep)
        ordered = sorted(summary.settings(keep), key=lambda s: -summary.score(keep, s))
        rows = [
            [
                str(s),
                f"{100 * summary.score(keep, s):.1f}",
                f"{100 * summary.worst(keep, s):.1f}",
                f"{ranks[str(s)]:.1f}",
            ]
            for s in ordered[:15]
        ]
        head = [f"keep {keep:g}", "all models, %", f"worst kind, % (goal {100 * least:.0f})"]
        parts.append(table([*head, "average rank"], rows) + "\n")
    return parts


def draw(folder: Path, summary: Summary) -> None:
    """Both plots."""
    models, keeps = summary.plan.names, summary.plan.keeps
    with panels(folder, "keeps", 1, len(models), (4.2 * len(models) + 1, 4)) as grid:
        for axes, model in zip(grid, models, strict=True):
            for i, (form, weighing) in enumerate(COMPARED):
                gains = [
                    summary.effect(model, 0, k, SELECTORS, form, weighing)
                    for k in summary.plan.keeps
                ]
                look = {"marker": MARKERS[i], "linewidth": 1, "color": COLORS[i]}
                x = apart(keeps, i, len(COMPARED) - 1)
                error_bars(axes, x, gains, 100, label=f"{form}, {weighing}", **look)
            axes.axhline(0, color="black", linewidth=0.8)
            axes.set(title=model, xlabel="tokens kept of 144 (share)")
            keep_axis(axes, keeps)
        grid[0].set_ylabel("points of accuracy against\nas kept, no mass; bars 95%")
        grid[-1].legend(frameon=False, fontsize=8)
    text = [summary.text_tokens[before] for before in summary.plan.before]
    with figure(folder, "lengths", (8.5, 4.5)) as axes:
        for i, model in enumerate(models):
            for weighing, line in (("total", "-"), ("token", "--")):
                gains = [
                    summary.effect(model, before, AT_LENGTH[-1], SELECTORS, "as kept", weighing)
                    for before in summary.plan.before
                ]
                look = {"linestyle": line, "marker": "o", "color": COLORS[i]}
                error_bars(axes, text, gains, 100, label=f"{model}, {weighing}", **look)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(
            xlabel="text tokens beside the image (mean)",
            ylabel="points of accuracy; bars 95%",
            title=f"What mass adds at keep {AT_LENGTH[-1]:g}, tokens as kept",
        )
        axes.legend(frameon=False, fontsize=9)
