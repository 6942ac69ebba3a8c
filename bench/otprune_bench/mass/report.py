"""`otprune bench mass`: run, sum up, write the report. Its sentences follow from the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from otprune.errors import OTPruneError
from otprune_bench.embedded.tasks import ALL, KINDS
from otprune_bench.figures.formats import in_points, pair, percent, quoted
from otprune_bench.figures.statistics import (
    Estimate,
    Floats,
    average_rank,
    clustered_mean,
    clustered_ratio,
)
from otprune_bench.mass.cases import (
    AT_LENGTH,
    AT_LENGTH_WEIGHINGS,
    EMBEDDED,
    KEEPS,
    SAID,
    WEIGHINGS,
    Plan,
    World,
    cases,
    key,
)
from otprune_bench.quality.cases import UNPRUNED
from otprune_bench.quality.summary import NAMES
from otprune_bench.runs.cases import Results, failures, run_cases
from otprune_bench.runs.report import COLORS, check_plots, figure, panels, table, write_report

SELECTORS = ("otprune", "transport", "divprune", "dpp")  # what anybody would choose from
FORMS = ("as kept", "merged")
CLEAR = 1.96
TARGETS = {0.098: 0.97, 0.05: 0.93}  # least share of the unpruned accuracy wanted in every kind


class Setting(NamedTuple):
    """One way to prune."""

    method: str
    form: str
    weighing: str

    def __str__(self) -> str:
        return f"`{self.method}`, {self.form}, {self.weighing}"


SETTINGS = [Setting(n, f, w) for n in NAMES for f in FORMS for w in WEIGHINGS]


# Forms and weighings that are compared with tokens as kept without mass.
COMPARED = (
    ("as kept", "total"),
    ("as kept", "token"),
    ("as kept", "token, shuffled"),
    ("merged", "none"),
    ("merged", "total"),
    ("merged", "token"),
)


class Found:
    """Figures of a run; what failed is missing, and listed as failed."""

    def __init__(self, world: World, results: Results) -> None:
        self.world, self.results = world, results
        for model in world.folders:
            whole = results[key(model, 0, UNPRUNED, 1.0)]
            if "failed" in whole:
                raise OTPruneError(f"the unpruned model {model} failed: {whole['failed']}")

    def right(self, model: str, said: int, keep: float, setting: Setting) -> Floats:
        """`(Q,)` of zeros and ones; raises KeyError where the case failed."""
        made = self.results[key(model, said, setting.method, keep)]
        return _bits(made[setting.form][setting.weighing]["right"])

    def unpruned(self, model: str, said: int) -> Floats:
        """`(Q,)`"""
        made = self.results[key(model, said, UNPRUNED, 1.0)]
        return _bits(made["as kept"]["none"]["right"])

    def mean(self, values: Floats, group: str = ALL) -> Estimate:
        """Over all questions or those of a kind, clustered by image."""
        questions = self.world.questions
        at = questions.of(group)
        return clustered_mean(values[at], questions.image[at])

    def retained(
        self, model: str, said: int, keep: float, settings: Sequence[Setting], group: str = ALL
    ) -> Estimate:
        """Accuracy, its mean over settings, as a share of the unpruned one."""
        questions = self.world.questions
        at = questions.of(group)
        right = np.mean([self.right(model, said, keep, s)[at] for s in settings], axis=0)
        return clustered_ratio(right, self.unpruned(model, said)[at], questions.image[at])

    def effect(
        self, model: str, said: int, keep: float, methods: Sequence[str], form: str, weighing: str
    ) -> Estimate:
        """Mean over methods of the accuracy with a weighing less that as kept without one."""
        gains = [
            self.right(model, said, keep, Setting(name, form, weighing))
            - self.right(model, said, keep, Setting(name, "as kept", "none"))
            for name in methods
        ]
        return self.mean(np.mean(gains, axis=0))

    def worst(self, keep: float, setting: Setting) -> float:
        """Least share of unpruned accuracy over kinds, of the embedded model alone."""
        return min(self.retained(EMBEDDED, 0, keep, [setting], kind).value for kind in KINDS)

    def score(self, keep: float, setting: Setting) -> float:
        """Mean over models of the share of unpruned accuracy kept, over all questions."""
        return float(
            np.mean(
                [self.retained(model, 0, keep, [setting]).value for model in self.world.folders]
            )
        )

    def ranks(self, keep: float) -> dict[str, float]:
        """Average rank over kinds of every setting, the embedded model, 1 the best."""
        scores = {}
        for setting in self.settings(keep):
            right = self.right(EMBEDDED, 0, keep, setting)
            scores[str(setting)] = {kind: self.mean(right, kind).value for kind in KINDS}
        return average_rank(scores)

    def settings(self, keep: float) -> list[Setting]:
        """All that failed with no model."""
        return [
            setting
            for setting in SETTINGS
            if all(
                "failed" not in self.results[key(model, 0, setting.method, keep)]
                for model in self.world.folders
            )
        ]


def run(folder: Path, plan: Plan, photos: Path) -> None:
    """Run what `folder` does not have yet, and write results, report and plots."""
    check_plots()
    world = World(plan, photos)
    results = run_cases(folder, cases(world), "mass", plan.settings())
    found = Found(world, results)
    _draw(folder, found)
    parts = [
        *_head(found),
        *_effects(found),
        *_kinds(found),
        *_models(found),
        *_lengths(found),
        *_choice(found),
        *failures(results),
    ]
    write_report(folder, _figures(found), "\n".join(parts), plan.settings())


def _head(found: Found) -> list[str]:
    plan, world = found.world.plan, found.world
    rows = [
        [model, *(percent(found.mean(found.unpruned(model, said))) for said in SAID)]
        for model in world.folders
    ]
    return [
        "# Attention mass: what the kept tokens weigh\n",
        f"{len(world.tasks)} {plan.split} images, {len(world.questions.kind)} questions of "
        f"{len(KINDS)} kinds, as in `otprune bench quality`. `total` adds log(m/k) to the "
        "attention logits of all kept tokens, `token` log(n_j), n_j the number of tokens that j "
        "stands for; `shuffled` gives each kept token another one's mass; alpha scales the "
        "logarithm. ± is one standard error, clustered by image.\n",
        "Unpruned, right answers in %, alone and behind other questions that tell nothing about "
        "the one asked, with their answers (mean number of text tokens in brackets):\n",
        table(["model", *(f"{said} before ({world.words(said):.0f})" for said in SAID)], rows)
        + "\n",
    ]


def _effects(found: Found) -> list[str]:
    parts = ["## Every selector\n", f"Model `{EMBEDDED}`, a question alone.\n"]
    for keep in KEEPS:
        for form in FORMS:
            rows = []
            for name in NAMES:
                if Setting(name, form, "none") not in found.settings(keep):
                    continue
                base = found.right(EMBEDDED, 0, keep, Setting(name, form, "none"))
                gains = [
                    found.mean(found.right(EMBEDDED, 0, keep, Setting(name, form, w)) - base)
                    for w in WEIGHINGS
                    if w != "none"
                ]
                rows.append([f"`{name}`", percent(found.mean(base)), *map(in_points, gains)])
            head = [f"keep {keep:g}, {form}", "none, %", *(w for w in WEIGHINGS if w != "none")]
            parts.append(table(head, rows) + "\n")
    return parts


def _kinds(found: Found) -> list[str]:
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
                    percent(found.retained(EMBEDDED, 0, keep, settings, group))
                    for group in (*KINDS, ALL)
                ]
                rows.append([f"{form}, {weighing}", *cells])
        parts.append(table([f"keep {keep:g}", *KINDS, "all"], rows) + "\n")
    return parts


def _models(found: Found) -> list[str]:
    rows = []
    for model in found.world.folders:
        for keep in AT_LENGTH:
            cells = [
                in_points(found.effect(model, 0, keep, SELECTORS, form, weighing))
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


def _lengths(found: Found) -> list[str]:
    rows = []
    for model in found.world.folders:
        for keep in AT_LENGTH:
            for said in SAID:
                base = np.mean(
                    [
                        found.right(model, said, keep, Setting(name, "as kept", "none"))
                        for name in SELECTORS
                    ],
                    axis=0,
                )
                gains = [
                    found.effect(model, said, keep, SELECTORS, form, w)
                    for form in FORMS
                    for w in ("total", "token")
                ]
                words = f"{found.world.words(said):.0f}"
                rows.append(
                    [model, f"{keep:g}", words, percent(found.mean(base)), *map(in_points, gains)]
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


def _choice(found: Found) -> list[str]:
    parts = [
        "## What to choose\n",
        "Settings by the mean over models of the share of unpruned accuracy kept, the best "
        "fifteen; the least share in any kind and the average rank over kinds (1 the best of "
        f"{len(found.settings(0.098))}) are those of `{EMBEDDED}`.\n",
    ]
    for keep, least in TARGETS.items():
        ranks = found.ranks(keep)
        ordered = sorted(found.settings(keep), key=lambda s: -found.score(keep, s))
        rows = [
            [
                str(s),
                f"{100 * found.score(keep, s):.1f}",
                f"{100 * found.worst(keep, s):.1f}",
                f"{ranks[str(s)]:.1f}",
            ]
            for s in ordered[:15]
        ]
        head = [f"keep {keep:g}", "all models, %", f"worst kind, % (goal {100 * least:.0f})"]
        parts.append(table([*head, "average rank"], rows) + "\n")
    return parts


def _figures(found: Found) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for model in found.world.folders:
        for said in SAID:
            full = found.unpruned(model, said)
            figures[key(model, said, UNPRUNED, 1.0)] = {
                group: pair(found.mean(full, group)) for group in (ALL, *KINDS)
            }
            weighings = AT_LENGTH_WEIGHINGS if said else WEIGHINGS
            for keep in AT_LENGTH if said else KEEPS:
                for name in NAMES:
                    made = found.results[key(model, said, name, keep)]
                    if "failed" in made:
                        figures[key(model, said, name, keep)] = made
                        continue
                    figures[key(model, said, name, keep)] = {
                        f"{form}, {weighing}": _of_setting(
                            found, model, said, keep, Setting(name, form, weighing)
                        )
                        for form in FORMS
                        for weighing in weighings
                    }
    return figures


def _of_setting(
    found: Found, model: str, said: int, keep: float, setting: Setting
) -> dict[str, Any]:
    right = found.right(model, said, keep, setting)
    base = found.right(model, said, keep, Setting(setting.method, "as kept", "none"))
    made = found.results[key(model, said, setting.method, keep)][setting.form][setting.weighing]
    return {
        "accuracy": {group: pair(found.mean(right, group)) for group in (ALL, *KINDS)},
        "minus as kept": {group: pair(found.mean(right - base, group)) for group in (ALL, *KINDS)},
        "loss": round(sum(made["loss"]) / len(right), 4),
    }


def _draw(folder: Path, found: Found) -> None:
    models = list(found.world.folders)
    with panels(folder, "keeps", 1, len(models), (4.2 * len(models) + 1, 4)) as grid:
        for axes, model in zip(grid, models, strict=True):
            for i, (form, weighing) in enumerate(COMPARED):
                gains = [found.effect(model, 0, k, SELECTORS, form, weighing) for k in KEEPS]
                axes.errorbar(
                    [keep * 1.015 ** (i - 2.5) for keep in KEEPS],
                    [100 * g.value for g in gains],
                    yerr=[CLEAR * 100 * g.error for g in gains],
                    marker="osD^vP"[i],
                    markersize=4,
                    linewidth=1,
                    capsize=2,
                    color=COLORS[i],
                    label=f"{form}, {weighing}",
                )
            axes.axhline(0, color="black", linewidth=0.8)
            axes.set(xscale="log", title=model, xlabel="tokens kept of 144 (share)")
            axes.set_xticks(KEEPS, [f"{keep:g}" for keep in KEEPS])
            axes.minorticks_off()
        grid[0].set_ylabel("points of accuracy against\nas kept, no mass; bars 95%")
        grid[-1].legend(frameon=False, fontsize=8)
    words = [found.world.words(said) for said in SAID]
    with figure(folder, "lengths", (8.5, 4.5)) as axes:
        for i, model in enumerate(models):
            for weighing, line in (("total", "-"), ("token", "--")):
                gains = [
                    found.effect(model, said, AT_LENGTH[-1], SELECTORS, "as kept", weighing)
                    for said in SAID
                ]
                axes.errorbar(
                    words,
                    [100 * g.value for g in gains],
                    yerr=[CLEAR * 100 * g.error for g in gains],
                    linestyle=line,
                    marker="o",
                    markersize=4,
                    capsize=2,
                    color=COLORS[i],
                    label=f"{model}, {weighing}",
                )
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(
            xlabel="text tokens beside the image (mean)",
            ylabel="points of accuracy; bars 95%",
            title=f"What mass adds at keep {AT_LENGTH[-1]:g}, tokens as kept",
        )
        axes.legend(frameon=False, fontsize=9)


def _bits(text: str) -> Floats:
    return np.frombuffer(text.encode(), np.uint8).astype(np.float64) - ord("0")
