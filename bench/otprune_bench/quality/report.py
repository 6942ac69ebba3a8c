"""The report of `otprune bench quality`. Its sentences follow from the figures."""

from __future__ import annotations

from collections.abc import Callable

from otprune_bench.embedded.tasks import ALL, KINDS
from otprune_bench.figures.formats import in_points, percent, spread_text
from otprune_bench.figures.statistics import CLEAR, Estimate
from otprune_bench.methods import RANDOM, UNPRUNED
from otprune_bench.quality.plan import BASE, GROUPS, KEEPS, SCARCE, SMALLER, WILD, WILD_KEEPS, Plan
from otprune_bench.quality.summary import Summary
from otprune_bench.runs.cases import failures
from otprune_bench.runs.report import table

_HEAD = [f"keep {keep:g}" for keep in KEEPS]


def write(plan: Plan, summary: Summary) -> str:
    """The report in Markdown."""
    return "\n".join(
        [
            *_head(plan, summary),
            *_accuracy(summary),
            *_ranks(summary),
            *_kinds(summary),
            *_loyalty(summary),
            *_wild(summary),
            *_times(plan, summary),
            *failures(summary.results),
        ]
    )


def _head(plan: Plan, summary: Summary) -> list[str]:
    below = (
        "photographs that training never saw"
        if plan.photographs
        else "smooth noise instead of photographs (a small run)"
    )
    return [
        "# The whole field on the embedded model\n",
        f"{plan.images} {plan.split} images, {len(summary.questions.kind)} questions of "
        f"{len(KINDS)} kinds: stickers (shapes and digits, some five of 144 tokens each) on "
        f"{below}. One small model on images of small objects; nothing was trained with pruning. "
        "Tokens as kept at their own positions, unless a line says otherwise; `k` is "
        f"{', '.join(_counts())} of 144. ± is one standard error, clustered by image; `{RANDOM}` "
        f"draws anew for every image, mean over {plan.random_seeds} seeds.\n",
        f"**Unpruned: {percent(summary.accuracy(UNPRUNED, 1.0))}.**\n",
        "`question s`: a share s of the mass lies where the question's words point "
        "(`TransportPrune(keep, question=s)` and others). `merge, mass, distance`: kept tokens are "
        "merged with those that they stand for and weigh as many, as in `recommended`. Methods "
        f"inside the language model see all tokens in its first layer and `k` in the other three, "
        "so they compute more than the others at the same `k`. "
        f"`{SMALLER}`: the image at the largest size that gives at most `k` tokens, as one would "
        "do without any method; the model was trained at one size. Methods of other groups are "
        "written from their descriptions, with departures named in docs/methods.md.\n",
        *_verdicts(summary),
        "![Right answers against the share of tokens kept](accuracy.png)\n",
    ]


def _counts() -> list[str]:
    from otprune.keep import count

    return [str(count(keep, 144)) for keep in KEEPS]


def _verdicts(summary: Summary) -> list[str]:
    lines = []
    for keep in KEEPS:
        names = summary.present(keep)
        best = max(names, key=lambda name: summary.accuracy(name, keep).value)
        ranks = summary.ranks(keep)
        first = min(ranks, key=ranks.__getitem__)
        others = [n for n in names if summary.contenders[n].group != "ours"]
        peer = max(others, key=lambda name: summary.accuracy(name, keep).value)
        said = f"- Keep {keep:g}: best `{best}`, {percent(summary.accuracy(best, keep))}"
        said += f"; first in average rank `{first}` ({ranks[first]:.1f})"
        said += f"; best of others `{peer}`, {percent(summary.accuracy(peer, keep))}"
        ours = max(
            summary.present(keep, "ours"), key=lambda name: summary.accuracy(name, keep).value
        )
        gap = summary.difference(ours, peer, keep)
        said += f"; our best less theirs {in_points(gap)} points"
        lines.append(said + ("." if _clear(gap) else ", not clear."))
    return [*lines, "\n(Clear: more than 1.96 standard errors of the paired difference.)\n"]


def _grouped(summary: Summary, cell: Callable[[str, float], str]) -> list[list[str]]:
    """One row a line of the table, group by group, `cell` for each ratio."""
    rows: list[list[str]] = []
    for group, title in GROUPS.items():
        names = [n for n, contender in summary.contenders.items() if contender.group == group]
        if names:
            rows.append([f"**{title}**", *[""] * len(KEEPS)])
        for name in names:
            there = [(name, keep) in summary.right for keep in KEEPS]
            cells = [cell(name, k) if ok else "failed" for k, ok in zip(KEEPS, there, strict=True)]
            rows.append([f"`{name}`", *cells])
    return rows


def _accuracy(summary: Summary) -> list[str]:
    rows = _grouped(summary, lambda name, keep: percent(summary.accuracy(name, keep)))
    apart = _grouped(summary, lambda name, keep: in_points(summary.difference(name, BASE, keep)))
    notes = [f"`{n}`: {c.note}" for n, c in summary.contenders.items() if c.note]
    return [
        "## Accuracy\n",
        table(["right answers, %", *_HEAD], rows) + "\n",
        f"{'; '.join(notes)}.\n",
        "![Every method at each number of tokens](ranking.png)\n",
        f"Paired differences to `{BASE}`, in points, on the same questions.\n",
        table([f"minus {BASE}", *_HEAD], apart) + "\n",
    ]


def _ranks(summary: Summary) -> list[str]:
    ranks = {keep: summary.ranks(keep) for keep in KEEPS}
    rows = _grouped(summary, lambda name, keep: f"{ranks[keep][name]:.1f}")
    return [
        "## Average rank\n",
        f"A line's rank in accuracy, mean over the {len(KINDS)} kinds of question; 1 is the best "
        f"of {len(summary.contenders)}.\n",
        table(["average rank", *_HEAD], rows) + "\n",
    ]


def _kinds(summary: Summary) -> list[str]:
    parts = ["## By kind of question\n"]
    numbers = [str(int(summary.questions.of(kind).sum())) for kind in (*KINDS, ALL)]
    for keep in SCARCE:
        rows = [
            [f"`{name}`", *(percent(summary.accuracy(name, keep, k)) for k in (*KINDS, ALL))]
            for name in summary.present(keep)
        ]
        full = [UNPRUNED, *(percent(summary.accuracy(UNPRUNED, 1.0, k)) for k in (*KINDS, ALL))]
        head = [f"keep {keep:g}, %", *KINDS, "all"]
        parts.append(table(head, [["questions", *numbers], full, *rows]) + "\n")
    return parts


def _loyalty(summary: Summary) -> list[str]:
    parts = [
        "## Loyalty\n",
        "Share of answers that are those of the unpruned model, right or wrong, in %.\n",
        table(
            ["loyalty, %", *_HEAD],
            _grouped(summary, lambda name, keep: percent(summary.loyalty(name, keep))),
        )
        + "\n",
    ]
    if any((SMALLER, keep) not in summary.right for keep in KEEPS):
        return parts
    sizes = ", ".join(str(int(summary.group_a(keep).sum())) for keep in KEEPS)
    return [
        *parts,
        "## Group A\n",
        "Accuracy on the questions that are answered right unpruned and wrong from the smaller "
        f"image with as many tokens (VTC-Bench, arXiv 2510.07143); {sizes} questions.\n",
        table(
            ["group A, %", *_HEAD],
            _grouped(summary, lambda name, keep: percent(summary.on_group_a(name, keep))),
        )
        + "\n",
    ]


def _wild(summary: Summary) -> list[str]:
    names = [n for n in summary.contenders if summary.wild(n, WILD_KEEPS[0]) is not None]
    rows = []
    for name in names:
        cells = []
        for keep in WILD_KEEPS:
            wild = summary.wild(name, keep)
            plain = percent(summary.accuracy(name, keep)) if (name, keep) in summary.right else "-"
            cells += [plain, "-" if wild is None else percent(wild)]
        rows.append([f"`{name}`", *cells])
    head = [x for k in WILD_KEEPS for x in (f"keep {k:g}", f"keep {k:g}, dominated")]
    return [
        "## A feature that dominates\n",
        f"Methods choose from tokens whose first feature varies by {WILD:g} mean norms, as "
        "features of real encoders do; answers are given from the tokens as they are.\n",
        table(["right answers, %", *head], rows) + "\n",
    ]


def _times(plan: Plan, summary: Summary) -> list[str]:
    if plan.lines:
        return []
    parts = [
        "## Time of a selection\n",
        "One image on this machine, selections alone, run in turn in one process; median, least "
        "and most. Methods that need the encoder's attention pay for the class token's row here "
        "(16 heads), which the engine works out from queries and keys. Ratios are paired, run by "
        "run. What methods inside the language model cost is part of its prefill.\n",
    ]
    for shape in plan.shapes:
        rows = [
            [
                f"`{name}`",
                spread_text(one["seconds"], 1000),
                spread_text(one["of transport"], 1, 3),
            ]
            for name, one in summary.times(shape).items()
        ]
        parts.append(table([f"{shape}", "ms", "of transport's time"], rows) + "\n")
    return parts


def _clear(estimate: Estimate) -> bool:
    return abs(estimate.value) > CLEAR * estimate.error
