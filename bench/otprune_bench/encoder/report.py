"""The report of `otprune bench encoder`. Its sentences follow from the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otprune_bench.embedded.tasks import KINDS
from otprune_bench.encoder.plan import (
    DEFAULT,
    EARLIER,
    EUCLIDEAN,
    FINALS,
    GOALS,
    LAYERS,
    LEAST,
    LEAST_KIND,
    MAIN,
    MOST_SELECTION,
    ONE,
    ORDER,
    SPLITS,
    TOKENS,
    WIDTH,
    Goal,
    Stage,
    Timed,
    tokens_of,
)
from otprune_bench.encoder.summary import Point, Summary, Who, front
from otprune_bench.figures.formats import number, percent
from otprune_bench.figures.plots import LOOKS, error_bars
from otprune_bench.figures.statistics import Estimate
from otprune_bench.methods import UNPRUNED
from otprune_bench.runs.cases import failures
from otprune_bench.runs.report import COLORS, panels, table

TEST = SPLITS[1]
MET = "met"
LOOK = {**LOOKS, EUCLIDEAN: {**LOOKS["transport"], "color": "#66CDAA"}}
LOWEST = 75  # of the plot of accuracy against time, %
MARKS = {0.5: "o", 0.35: "s", 0.25: "D"}  # of the encoder's ratio, in plots


def write(summary: Summary) -> str:
    """The report in Markdown."""
    parts = [
        *_head(summary),
        *_goals(summary),
        *_features(summary),
        *_answers(summary),
        *_kinds(summary),
        *_times(summary),
        *failures(summary.results),
    ]
    return "\n".join(parts)


def _head(summary: Summary) -> list[str]:
    plan = summary.plan
    below = "photographs" if plan.photographs else "images of noise (a small run)"
    return [
        "# Selection inside the vision encoder\n",
        "An encoder stage keeps some of the tokens: *after 3* selects in the fourth layer, between "
        "its attention, which is of all tokens, and its MLP. Only the kept ones go through the "
        "rest of the encoder. With *mass*, the logarithm of the number of tokens that a kept one "
        "stands for is added to its attention logits there. Then a second selection (`dpp`, "
        "merged, with masses: `otprune.recommended` without its distance term) chooses the "
        f"language model's tokens among the kept ones. Answers: {plan.images} images in each "
        "split, as in `otprune bench mass`, of the embedded model, whose encoder has "
        f"{LAYERS} layers and 144 tokens. Features: {plan.photos} {below} and the ViT-S/14 with "
        "12 layers. Nothing is trained. ± is one standard error, clustered by image.\n",
        "![accuracy kept against time](time.png)\n",
        "Accuracy is that of the embedded model everywhere. The first panel has its own time; the "
        "others that of a model cut after about the same share of its encoder's layers, whose "
        f"accuracy was not measured, with {100 * next(iter(LEAST)):.1f}% of the tokens for the "
        f"language model. Settings that keep less than {LOWEST}% are below the plot.\n",
    ]


def _met(value: float, least: float) -> str:
    return MET if value >= least else "**missed**"


def _goals(summary: Summary) -> list[str]:
    rows = []
    for goal in GOALS:
        for size, _ in summary.plan.features:
            for name in (MAIN[0], EUCLIDEAN, MAIN[1]):
                stage = Stage(name, goal.keep, goal.after, True)
                found = summary.error(size, stage, "kept")
                if found is not None:
                    rows.append(_feature_goal(goal, size, name, found))
    for who in _answer_candidates(summary):
        for final, least in LEAST.items():
            found = summary.retained(TEST, who, final)
            goal_text = f"answers, test, {final:g} of the tokens, at least {100 * least:.0f}%"
            rows.append([goal_text, str(who), percent(found), _met(found.value, least)])
            if final in LEAST_KIND:
                kind, found = summary.worst(TEST, who, final)
                goal_text = f"in every kind, at least {100 * LEAST_KIND[final]:.0f}%"
                met = _met(found.value, LEAST_KIND[final])
                rows.append([goal_text, str(who), f"{percent(found)} ({kind})", met])
    for timed in summary.plan.timed:
        for name in MAIN:
            shares = _shares_of(summary, timed, name)
            if shares:
                said = f"{100 * min(shares):.1f} to {100 * max(shares):.1f}%"
                rows.append(
                    [
                        f"selection at most {100 * MOST_SELECTION:.0f}% of the encoder's time",
                        f"{name}, {timed.name}",
                        said,
                        _met(-max(shares), -MOST_SELECTION),
                    ]
                )
    return ["## Goals\n", table(["goal", "setting", "measured", ""], rows, numbers=4) + "\n"]


def _feature_goal(goal: Goal, size: int, name: str, found: Estimate) -> list[str]:
    return [
        f"feature error after {goal.after} of 12 layers at {goal.keep:g}, at most {goal.error:g}",
        f"{name}, mass, {tokens_of(size)} tokens",
        number(found),
        _met(-found.value, -goal.error),
    ]


def _answer_candidates(summary: Summary) -> list[Who]:
    """`ONE`, the default, earlier ones, and stages chosen on the validation images.

    Those of `MAIN` that meet the goals there, the four of least work in the encoder.
    """
    chosen = [
        who
        for who in summary.asked(SPLITS[0])
        if isinstance(who, Stage)
        and who.method in MAIN
        and all(_met(*each) == MET for each in _answer_goals(summary, SPLITS[0], who))
    ]
    found: list[Who] = [ONE, DEFAULT, *EARLIER, *sorted(chosen, key=_work)[:4]]
    return [who for who in dict.fromkeys(found) if who in summary.asked(TEST)]


def _answer_goals(summary: Summary, split: str, who: Who) -> list[tuple[float, float]]:
    """Values and the least that is wanted of them."""
    overall = [(summary.retained(split, who, final).value, x) for final, x in LEAST.items()]
    kinds = [(summary.worst(split, who, final)[1].value, x) for final, x in LEAST_KIND.items()]
    return overall + kinds


def _work(stage: Stage) -> float:
    """Work in the embedded model's encoder, in layers."""
    return stage.work(LAYERS, TOKENS, WIDTH)


def _shares_of(summary: Summary, timed: Timed, method: str) -> list[float]:
    final = timed.finals[0] if timed.finals else None
    every = [
        summary.share(timed, stage, final)
        for stage in timed.stages
        if stage.method == method and stage.mass
    ]
    return [share for share in every if share is not None]


def _features(summary: Summary) -> list[str]:
    parts = [
        "## Features of the ViT-S/14\n",
        "Relative squared error at hidden state 10 of 12 against the run with all tokens: "
        "`sum |f - f_full|^2 / sum |f_full - mean|^2`, both sums over the same patch tokens, mean "
        "that of all patch tokens; mean over photographs. *Kept*: over the kept tokens. *All*: "
        "over all tokens, dropped ones with the feature of the kept token that they belong to. "
        "*Class*: squared error of the class token, divided by the mean squared distance of class "
        "tokens from their mean over photographs. *Work*: multiplications of the whole encoder, in "
        "layers that work on all tokens; there are 12.\n",
    ]
    for size, stages in summary.plan.features:
        rows = []
        where = dict.fromkeys((stage.after, stage.keep) for stage in stages)
        for after, keep in sorted(where, key=lambda at: (at[0], -at[1])):
            for name in ORDER:
                both = [Stage(name, keep, after, mass) for mass in (True, False)]
                found = [
                    summary.error(size, stage, measure)
                    for measure in ("kept", "all", "class")
                    for stage in both
                ]
                if any(x is not None for x in found):
                    cells = ["-" if x is None else number(x) for x in found]
                    work = f"{both[0].work(12, tokens_of(size), 384):.1f}"
                    rows.append([f"after {after}, keep {keep:g}", f"`{name}`", work, *cells])
        head = ["", "", "work", "kept, mass", "no mass", "all, mass", "no mass"]
        head += ["class, mass", "no mass"]
        parts += [f"### {tokens_of(size)} tokens\n", table(head, rows, numbers=2) + "\n"]
    said = "Mass lowers the error in"
    for measure, what in (("kept", "of kept tokens"), ("class", "of the class token")):
        better, worse = _with_mass(summary, measure)
        said += f" {len(better)} of {len(better) + len(worse)} pairs ({what}"
        said += f"; not: {', '.join(worse)})," if worse else "),"
    return [*parts, f"{said.rstrip(',')}.\n", "![errors of features](features.png)\n"]


def _with_mass(summary: Summary, measure: str) -> tuple[list[str], list[str]]:
    """Settings whose mean error is smaller with mass than without, and the others."""
    better: list[str] = []
    worse: list[str] = []
    for size, stages in summary.plan.features:
        for stage in stages:
            found = summary.error(size, stage, measure)
            without = summary.error(size, stage._replace(mass=False), measure)
            if stage.mass and found is not None and without is not None:
                name = f"`{stage.method}`@{stage.keep:g} after {stage.after}"
                side = better if found.value < without.value else worse
                side.append(f"{name}, {tokens_of(size)} tokens")
    return better, worse


def _answers(summary: Summary) -> list[str]:
    parts = [
        "## Answers of the embedded model\n",
        "Share of the unpruned accuracy, %, with all tokens, 9.8% and 5% of them for the language "
        "model; *worst* is the least share in any kind of question at 9.8%. With all tokens, "
        "dropped ones have the feature of the kept one that they belong to.\n",
    ]
    for split in SPLITS:
        full = summary.accuracy(split, UNPRUNED, 1.0)
        known = summary.asked(split)
        rows = [_answer_row(summary, split, ONE)] if ONE in known else []
        stages = [who for who in known if isinstance(who, Stage)]
        for stage in sorted(stages, key=lambda s: (s.after, -s.keep, ORDER.index(s.method))):
            if stage.mass:
                rows.append(_answer_row(summary, split, stage))
        pairs = [
            (summary.retained(split, s, final).value, summary.retained(split, other, final).value)
            for s in stages
            if s.mass and (other := s._replace(mass=False)) in known
            for final in FINALS
        ]
        said = ""
        if pairs:
            won = sum(a > b for a, b in pairs)
            said = f" With mass more is kept in {won} of {len(pairs)} pairs."
        head = ["", "all", "9.8%", "worst", "5%", "no mass: all", "9.8%", "worst", "5%"]
        parts += [
            f"### {split.capitalize()} images\n",
            f"Unpruned {percent(full)}% right, {len(summary.questions[split].kind)} questions."
            f"{said}\n",
            table(head, rows) + "\n",
        ]
    return parts


def _answer_row(summary: Summary, split: str, who: Who) -> list[str]:
    label = who if isinstance(who, str) else f"after {who.after}, keep {who.keep:g}, `{who.method}`"
    cells = [label, *_answer_cells(summary, split, who)]
    if isinstance(who, Stage):
        other = who._replace(mass=False)
        known = other in summary.asked(split)
        cells += _answer_cells(summary, split, other) if known else ["-"] * 4
    else:
        cells += [""] * 4
    return cells


def _answer_cells(summary: Summary, split: str, who: Who) -> list[str]:
    all_, many, few = (percent(summary.retained(split, who, final)) for final in FINALS)
    worst = summary.worst(split, who, FINALS[1])[1]
    return [all_, many, f"{100 * worst.value:.1f}", few]


def _kinds(summary: Summary) -> list[str]:
    rows = []
    for who in _answer_candidates(summary):
        cells = [percent(summary.retained(TEST, who, FINALS[1], kind)) for kind in KINDS]
        rows.append([str(who), *cells])
    return [
        "## By kind of question\n",
        "Test images, share of the unpruned accuracy, %, with 9.8% of the tokens for the language "
        "model. The stages are the default, both methods a layer earlier and, of both methods, the "
        "four of least work in the encoder that meet the goals of answers on the validation "
        "images.\n",
        table(["", *KINDS], rows) + "\n",
    ]


def _times(summary: Summary) -> list[str]:
    low, high = summary.load()
    parts = [
        "## Time\n",
        "Processor seconds of one process with one thread, medians of calls that take turns in a "
        "random order; other processes ran on the machine (load "
        f"{low:.1f} to {high:.1f}), so the clock says less; its times are in the JSON file too. "
        "*Selection* is the one inside the encoder, *share* its part of the unpruned encoder's "
        f"time (goal: at most {100 * MOST_SELECTION:.0f}%). A call of a whole model is one "
        "image and one new token; of the ViT-S/14 and CLIP the encoder alone is called. CLIP and "
        "LLaVA-OneVision have their sizes, random weights and float32.\n",
    ]
    for timed in summary.plan.timed:
        rows = []
        every: list[tuple[Who, float | None]] = [(UNPRUNED, None)]
        for final in timed.finals or (None,):
            if final is not None:
                every.append((ONE, final))
            every += [(stage, final) for stage in _shown(timed)]
        for who, final in every:
            spent = summary.spent(timed, who, final)
            if spent is None:
                rows.append([str(who), *["failed"] * 5])
                continue
            share = summary.share(timed, who, final) if isinstance(who, Stage) else None
            label = str(who) if final is None else f"{who}; then {final:g}"
            rows.append(
                [
                    label,
                    *map(_milliseconds, spent[:3]),
                    "-" if share is None else f"{100 * share:.1f}%",
                    f"{100 * spent.ratio:.0f}%",
                ]
            )
        head = [timed.name, "total, ms", "encoder", "selection", "share", "total / unpruned"]
        parts.append(table(head, rows) + "\n")
    return parts


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}" if seconds >= 1 else f"{1e3 * seconds:.3g}"


def _shown(timed: Timed) -> list[Stage]:
    """All stages; where every method is timed, for the plot, those of `MAIN` with mass."""
    if not timed.layers:
        return list(timed.stages)
    found = [stage for stage in timed.stages if stage.method in MAIN and stage.mass]
    return sorted(found, key=lambda s: (s.after, -s.keep))


def draw(folder: Path, summary: Summary) -> None:
    """Both plots."""
    _draw_features(folder, summary)
    models = [timed for timed in summary.plan.timed if timed.layers]
    with panels(folder, "time", 1, len(models), (5.6 * len(models) + 1.6, 4.6)) as grid:
        for axes, timed in zip(grid, models, strict=True):
            _draw_points(axes, summary.points(TEST, timed))
            what = "whole call" if timed.finals else "encoder alone"
            axes.set_title(f"{timed.name}: {what}", fontsize=11)
            axes.set_xlabel("time against the unpruned one, %")
            axes.set_ylim(LOWEST, 102)
        grid[0].set_ylabel("share of unpruned accuracy, %\n(embedded model, test images)")
        handles = _legend()
        grid[-1].legend(
            handles=handles, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5)
        )


def _draw_points(axes: Any, points: list[Point]) -> None:
    for point in points:
        x, y = 100 * point.time, 100 * point.retained
        if isinstance(point.who, Stage):
            look = {"marker": MARKS[point.who.keep], "color": LOOK[point.who.method]["color"]}
            fill = look["color"] if point.who.mass else "none"
            axes.plot(x, y, markersize=5, linestyle="", markerfacecolor=fill, **look)
        else:
            mark = "*" if point.who == UNPRUNED else "P"
            axes.plot(x, y, mark, color="black", markersize=10)
    best = front(points)
    axes.plot(
        [100 * p.time for p in best], [100 * p.retained for p in best], color="black", linewidth=0.9
    )


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    def mark(label: str, **look: Any) -> Any:
        return Line2D([], [], label=label, linestyle="", **look)

    return [
        mark("unpruned", marker="*", color="black", markersize=10),
        mark(ONE + " behind the encoder", marker="P", color="black", markersize=8),
        *(mark(name, marker="o", color=LOOK[name]["color"]) for name in ORDER),
        *(mark(f"{keep:g} in the encoder", marker=m, color="gray") for keep, m in MARKS.items()),
        mark("without mass", marker="o", color="gray", markerfacecolor="none"),
        Line2D([], [], color="black", linewidth=0.9, label="best accuracy for a time"),
    ]


def _draw_features(folder: Path, summary: Summary) -> None:
    size, stages = summary.plan.features[0]
    with panels(folder, "features", 1, 2, (11, 4.4)) as grid:
        for axes, measure in zip(grid, ("kept", "class"), strict=True):
            for i, name in enumerate(dict.fromkeys(stage.method for stage in stages)):
                for mass in (True, False):
                    found = {
                        stage.after: value
                        for stage in sorted(stages, key=lambda s: s.after)
                        if (stage.method, stage.keep, stage.mass) == (name, 0.35, mass)
                        and (value := summary.error(size, stage, measure)) is not None
                    }
                    if not found:
                        continue
                    x = [after + 0.04 * (i - 2.5) for after in found]
                    look = dict(LOOK[name], linestyle="-" if mass else ":")
                    label = f"{name}, {'mass' if mass else 'no mass'}"
                    error_bars(axes, x, found.values(), linewidth=1.2, label=label, **look)
            axes.set(yscale="log", xlabel="layers before the selection, of 12")
            ticks = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        for goal in GOALS:
            grid[0].plot(goal.after, goal.error, "_", color=COLORS[6], markersize=22)
        grid[0].set_ylabel("relative squared error; bars 95%")
        grid[0].set_title(f"kept tokens, keep 0.35 of {tokens_of(size)} (bars: goals)", fontsize=11)
        grid[1].set_title("class token", fontsize=11)
        grid[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
