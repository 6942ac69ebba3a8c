"""The quality bench end to end on a few images, and that its answers are those of the engine."""

import json
from dataclasses import replace

import pytest
import torch

from otprune import OTPruneError, prune
from otprune.demo import load
from otprune.selectors import METHODS, Selector
from otprune_bench.embedded.tasks import KINDS
from otprune_bench.methods import RANDOM, UNPRUNED
from otprune_bench.quality.cases import Evaluation, grid_of
from otprune_bench.quality.plan import GROUPS, KEEPS, QUICK, SMALLER, Shape
from otprune_bench.quality.run import run
from otprune_bench.quality.summary import Summary


class Pointed(Selector):
    """A method of one's own."""

    needs = frozenset({"question", "saliency"})

    def pick(self, tokens, k, cues):
        return ((tokens @ cues.question.mT).amax(-1) + cues.saliency).topk(k).indices


OWN = f"{__name__}:Pointed"
PLAN = replace(QUICK, images=2, lines=(), shapes=(Shape(24, 8, 3, 4),), own=(OWN,))


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return Evaluation(PLAN, tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A whole run, with a method that always fails."""
    folder = tmp_path_factory.mktemp("quality")

    def broken(self, tokens, k, cues):
        raise RuntimeError("broken on purpose")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS["norm"], "pick", broken)
        run(folder, PLAN, folder)
    return folder


def test_every_line_has_figures(ran, evaluation):
    results = json.loads((ran / "results.json").read_text())["results"]
    names = {c.name for c in evaluation.contenders if not c.name.startswith(RANDOM)} | {RANDOM}
    assert names > {*METHODS, OWN}
    for name in names - {"norm"}:
        for keep in KEEPS:
            one = results[f"{name}@{keep}"]
            assert set(one["accuracy"]) == {"all", *KINDS}
            for figure in ("retained", "loyalty", "group A", "minus dpp"):
                assert len(one[figure]) == 2
    assert {c.group for c in evaluation.contenders} == set(GROUPS)
    assert list(results["times"].values()) == [{}]  # since one of the methods fails


def test_the_report_names_what_failed_and_has_its_plots(ran):
    report = (ran / "report.md").read_text()
    for keep in KEEPS:
        assert f"`norm@{keep}`: RuntimeError: broken on purpose" in report
    for name in ("accuracy", "ranking"):
        assert (ran / f"{name}.png").stat().st_size > 10_000
        assert f"({name}.png)" in report


@pytest.mark.parametrize(
    "name",
    [
        "transport, question 0.5",
        "transport, saliency 0.5",
        "transport, question 0.9 + mass",
        "dpp + merge, mass, distance",
        "cdpruner",
        "mmtok",
        "scope",
        "visionzip",
        "dart",
        OWN,
    ],
)
def test_answers_are_those_of_the_engine(evaluation, name):
    contender = next(c for c in evaluation.contenders if c.name == name)
    model, processor = load()
    got = evaluation.pruned(contender, 0.05)
    losses = []
    how = {"merge": contender.merge, "mass": contender.mass, "distance": contender.distance}
    if contender.layers is not None:
        how["layers"] = contender.layers(7)
    selector = contender.selector(144 if contender.layers else 7, 0)
    for task in evaluation.tasks:
        texts = [f"<image> {question.text}" for question in task.questions]
        inputs = processor(
            images=[task.image] * len(texts), text=texts, padding=True, return_tensors="pt"
        )
        with torch.no_grad(), prune(model, selector, positions="preserved", **how):
            logs = model(**inputs).logits[:, -1].log_softmax(-1)
        right = evaluation._by_question.answer[len(losses) : len(losses) + len(texts)]
        losses += (-logs.gather(1, right[:, None])[:, 0]).tolist()
    assert got["losses"] == pytest.approx(losses, abs=2e-3)


def test_some_lines_alone(tmp_path):
    plan = replace(PLAN, lines=("transport, question 0.9 + mass",))
    assert plan.settings()["lines"] == plan.lines
    assert "lines" not in PLAN.settings()
    made = {c.name for c in Evaluation(plan, tmp_path).contenders}
    assert made == {"dpp", *plan.lines, *plan.own, "norm", "grid", SMALLER, "random 0"}
    with pytest.raises(OTPruneError, match="no line is named 'mmtk': expected one of otprune"):
        Evaluation(replace(plan, lines=("mmtk",)), tmp_path)


def test_the_smaller_image_is_not_larger_than_asked(evaluation):
    assert [grid_of(k) for k in (36, 14, 7, 4, 2, 1)] == [
        (6, 6),
        (3, 4),
        (2, 3),
        (2, 2),
        (1, 2),
        (1, 1),
    ]
    smaller = next(c for c in evaluation.contenders if c.name == SMALLER)
    assert evaluation.pruned(smaller, 0.098)["tokens"] == 12


def test_group_a_is_what_the_smaller_image_loses(evaluation):
    questions = evaluation.questions
    n = len(questions.kind)
    right = questions.answer.tolist()
    wrong = [0] * n
    results = {UNPRUNED: {"answers": right, "losses": []}}
    for contender in evaluation.contenders:
        for keep in KEEPS:
            answers = wrong if contender.name == SMALLER else right
            results[f"{contender.name}@{keep}"] = {"answers": answers, "losses": []}
    results[f"{SMALLER}@{KEEPS[0]}"] = {"answers": [*right[:-1], 0], "losses": []}
    summary = Summary(PLAN, results, questions, evaluation.contenders)
    assert summary.group_a(KEEPS[0]).tolist() == [False] * (n - 1) + [True]
    assert summary.on_group_a("dpp", KEEPS[0]).value == 1
    assert summary.on_group_a(SMALLER, KEEPS[1]).value == 0
    ranks = summary.ranks(KEEPS[1])
    assert ranks[SMALLER] == max(ranks.values()) > ranks["dpp"]


def test_only_methods_of_ones_own_are_named(refused):
    assert "expected MODULE:CLASS" in refused("bench", "quality", "--method", "transport")
    assert "did you mean Pointed?" in refused("bench", "quality", "--method", OWN[:-1])
