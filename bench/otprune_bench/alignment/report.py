"""The report of `otprune bench alignment`. Its sentences follow from the figures."""

from __future__ import annotations

from otprune_bench.alignment.hypothesis import Finding, Findings, Points
from otprune_bench.alignment.plan import (
    AS_KEPT,
    AT,
    KEEPS,
    MERGED,
    OUTCOMES,
    SCOPES,
    SETTINGS,
    Plan,
)
from otprune_bench.alignment.summary import Summary
from otprune_bench.embedded.tasks import ALL, KINDS
from otprune_bench.figures.formats import in_points, number, percent, quoted
from otprune_bench.figures.statistics import CLEAR, Estimate
from otprune_bench.methods import PUBLISHED, RANDOM, UNPRUNED
from otprune_bench.runs.cases import failures
from otprune_bench.runs.report import table


def write(plan: Plan, summary: Summary, points: Points, found: Findings) -> str:
    """The report in Markdown."""
    parts = [
        *_head(plan, summary),
        *_accuracy(summary),
        *_differences(summary),
        *_kinds(summary),
        *_settings(summary),
        *_hypothesis(points, found),
        "## Overlays\n\nWhat five methods keep of the first ten images, at keep "
        f"{AT}.\n\n![overlays](overlays.png)\n",
        *failures(summary.results),
    ]
    return "\n".join(parts)


def _head(plan: Plan, summary: Summary) -> list[str]:
    full = summary.accuracy(UNPRUNED, 1.0)
    below = (
        "photographs that training never saw"
        if plan.photographs
        else "smooth noise instead of photographs (a small run)"
    )
    return [
        "# What pruning costs: answers of the embedded model\n",
        f"{plan.images} images, {len(summary.questions.kind)} questions of {len(KINDS)} "
        f"kinds. Stickers (shapes and digits, some five patches each of 144) on {below}; every "
        "image has a combination of colour and noun that training never showed. No image was "
        "pruned in training. Existence is balanced, its absentees mostly share colour or noun with "
        'something there; "naming" asks for colour or shape by place, "relation" is left and '
        'right, "digit" is reading.\n',
        "An answer is the likeliest word after the question; answer loss is -log p of the right "
        "one, in nats. ± is one standard error; questions of one image are not independent, so "
        "errors are clustered by image. Random pruning draws anew for every image; its figures "
        f"are means over {plan.random_seeds} seeds. `{PUBLISHED}` is the published OTPrune, "
        "`otprune` the same with gamma scaled to the token's size.\n",
        f"**Unpruned: {percent(full)}**, answer loss {number(summary.loss(UNPRUNED, 1.0))}.\n",
        _winners(summary),
    ]


def _winners(summary: Summary) -> str:
    names = summary.present(AT)
    best = max(names, key=lambda name: summary.accuracy(name, AT).value)
    equal = [
        name for name in names if name != best and not _clear(summary.difference(best, name, AT))
    ]
    beaten = [
        name
        for name in names
        if RANDOM in names
        and name != RANDOM
        and summary.difference(name, RANDOM, AT).value < 0
        and _clear(summary.difference(name, RANDOM, AT))
    ]
    said = f"At keep {AT} the best as kept is `{best}`, {percent(summary.accuracy(best, AT))}"
    said += (
        f"; not clearly behind it: {quoted(equal)}." if equal else ", clearly before all others."
    )
    if beaten:
        said += f" Clearly worse than random: {quoted(beaten)}."
    better = [n for n in names if _clear(e := summary.effect(n, AT, MERGED)) and e.value > 0]
    worse = [n for n in names if _clear(e := summary.effect(n, AT, MERGED)) and e.value < 0]
    said += f" Merging clearly helps there: {quoted(better) or 'none'}"
    said += f"; clearly hurts: {quoted(worse) or 'none'}."
    return said + " (Clearly: by more than 1.96 standard errors of the paired difference.)\n"


def _accuracy(summary: Summary) -> list[str]:
    names = summary.present(AT)
    every = [name for name in names if all(name in summary.present(keep) for keep in KEEPS)]
    by_keep = table(
        ["right answers, %", *(f"keep {keep:g}" for keep in KEEPS)],
        [[f"`{n}`", *(percent(summary.accuracy(n, keep)) for keep in KEEPS)] for n in every],
    )
    ranks = {keep: summary.ranks(keep) for keep in KEEPS}
    by_rank = table(
        ["average rank", *(f"keep {keep:g}" for keep in KEEPS)],
        [[f"`{n}`", *(f"{ranks[keep][n]:.2f}" for keep in KEEPS)] for n in every],
    )
    more = table(
        [f"keep {AT}", "answer loss", "agreement, %", "retained, %", "evidence, %", "objects, %"],
        [
            [
                f"`{name}`",
                number(summary.loss(name, AT)),
                percent(summary.agreement(name, AT)),
                percent(summary.retained(name, AT)),
                percent(summary.evidence(name, AT)),
                percent(summary.objects(name, AT)),
            ]
            for name in names
        ],
    )
    return [
        "## Accuracy\n",
        f"Tokens {AS_KEPT.replace(', ', ', positions ')}.\n",
        f"{by_keep}\n",
        "![accuracy](accuracy.png)\n",
        "Agreement: same answer as unpruned, right or wrong. Retained: accuracy as a share of the "
        "unpruned one. Evidence: kept share of the patches of the stickers that a question speaks "
        "of. Objects: share of an image's stickers of which a patch is kept at all.\n",
        f"{more}\n",
        "Average rank as the paper has it: a method's rank in accuracy, mean over the benchmarks; "
        f"here over the {len(KINDS)} kinds of question. 1 is the best, {len(names)} the worst.\n",
        f"{by_rank}\n",
    ]


def _differences(summary: Summary) -> list[str]:
    parts = ["## Paired differences\n", "Accuracy in points, on the same questions.\n"]
    for other in (RANDOM, PUBLISHED):
        rows = []
        for name in summary.present(AT):
            if name == other:
                continue
            cells = [
                in_points(summary.difference(name, other, keep))
                if {name, other} <= set(summary.present(keep))
                else "failed"
                for keep in KEEPS
            ]
            rows.append([f"`{name}`", *cells])
        parts.append(table([f"minus {other}", *(f"keep {keep:g}" for keep in KEEPS)], rows) + "\n")
    return parts


def _kinds(summary: Summary) -> list[str]:
    def row(name: str, keep: float) -> list[str]:
        return [
            f"`{name}`",
            *(percent(summary.accuracy(name, keep, group=kind)) for kind in (*KINDS, ALL)),
        ]

    rows = [row(UNPRUNED, 1.0), *(row(name, AT) for name in summary.present(AT))]
    numbers = [str(int(summary.questions.of(kind).sum())) for kind in (*KINDS, ALL)]
    return [
        "## By kind of question\n",
        table([f"keep {AT}, %", *KINDS, "all"], [["questions", *numbers], *rows]) + "\n",
        "![by kind](kinds.png)\n",
    ]


def _settings(summary: Summary) -> list[str]:
    rows = [
        [
            f"`{name}`",
            percent(summary.accuracy(name, AT)),
            *(in_points(summary.effect(name, AT, setting)) for setting, _, _ in SETTINGS[1:]),
        ]
        for name in summary.present(AT)
    ]
    return [
        "## Merging and positions\n",
        f"Keep {AT}: accuracy {AS_KEPT}, and what the other settings add, paired, in points.\n",
        table(["", f"{AS_KEPT}, %", *(setting for setting, _, _ in SETTINGS[1:])], rows) + "\n",
        "![settings](settings.png)\n",
    ]


def _hypothesis(points: Points, found: Findings) -> list[str]:
    rows = [
        [
            distance,
            *(
                _correlation(found[distance, outcome, scope])
                for scope in SCOPES
                for outcome in OUTCOMES
            ),
        ]
        for distance in points.distances
    ]
    head = [f"{s}: {o}" for s in SCOPES for o in OUTCOMES]
    return [
        "## Does a smaller distance go with better answers?\n",
        "The paper says that the distance between full and kept tokens predicts the score. A point "
        "is a method at a ratio, as kept, positions preserved: Spearman's correlation of its mean "
        "distance with its share of wrong answers and with its answer loss. **Positive is what "
        "the paper expects.** Pooled over ratios it is nearly bound to be positive, since keeping "
        "more shrinks both; within a ratio it says whether the distance tells methods apart. "
        "First bracket: 95% bootstrap interval over images; second: over methods.\n",
        verdict(found) + "\n",
        table(["squared W2", *head], rows) + "\n",
        '"raw" is tokens as they are, "columns" features at length one (the space of OTPrune), '
        '"rows" tokens at length one, "centred" about the mean; exact and free-mass distances '
        "are the same centred as raw. Gaussian and exact: equal mass on kept tokens.\n",
        "![distances](distances.png)\n",
        "![correlations](correlations.png)\n",
    ]


def verdict(found: Findings) -> str:
    """A sentence about answer loss within a ratio: each distance with its correlation."""
    signs: dict[str, list[str]] = {"yes": [], "no": [], "open": []}
    sure = []
    for (distance, outcome, scope), finding in found.items():
        if (outcome, scope) != ("answer loss", "within"):
            continue
        low, high = finding.over_images.low, finding.over_images.high
        named = f"{distance} ({finding.over_images.value:+.2f})"
        signs["yes" if low > 0 else "no" if high < 0 else "open"].append(named)
        if finding.over_methods.low > 0 or finding.over_methods.high < 0:
            sure.append(distance)
    if not any(signs.values()):
        return "No distance was measured."
    said = ["Within a ratio, on these images and methods:"]
    for sign, meaning in (
        ("yes", "a smaller distance goes with a smaller answer loss for"),
        ("no", "with a **larger** one, against the hypothesis, for"),
        ("open", "there is no clear relation for"),
    ):
        if signs[sign]:
            said.append(f"{meaning} {', '.join(signs[sign])};")
    text = " ".join(said).rstrip(";") + "."
    if sure:
        return f"{text} With other methods the sign would hold for {', '.join(sure)} alone."
    return f"{text} So few methods prove none of it: every interval over methods includes zero."


def _clear(estimate: Estimate) -> bool:
    return abs(estimate.value) > CLEAR * estimate.error


def _correlation(finding: Finding) -> str:
    (value, low, high), (_, least, most) = finding
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}] [{least:+.2f}, {most:+.2f}]"
