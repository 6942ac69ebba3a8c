"""The alignment bench end to end on a few images, and what it makes of its answers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from otprune.errors import OTPruneError
from otprune.selectors import METHODS
from otprune_bench.alignment.cases import Evaluation
from otprune_bench.alignment.hypothesis import Finding
from otprune_bench.alignment.plan import AS_KEPT, KEEPS, QUICK, SETTINGS
from otprune_bench.alignment.report import verdict
from otprune_bench.alignment.run import run
from otprune_bench.alignment.summary import Summary
from otprune_bench.embedded.spaces import NAMES as DISTANCES
from otprune_bench.figures.statistics import Correlation
from otprune_bench.methods import NAMES, PUBLISHED, RANDOM, UNPRUNED, methods

PLAN = replace(QUICK, images=4, measured=2, random_seeds=2, draws=40)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return Evaluation(PLAN, tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A whole run, with a method that always fails."""
    folder = tmp_path_factory.mktemp("alignment")

    def broken(self, tokens, k, weights):
        raise RuntimeError("broken on purpose")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS["norm"], "pick", broken)
        run(folder, PLAN, folder)
    return folder


def test_every_method_and_ratio_has_figures(ran):
    results = json.loads((ran / "results.json").read_text())["results"]
    for name in set(NAMES) - {"norm"}:
        for keep in KEEPS:
            for setting, _, _ in SETTINGS:
                accuracy, error = results[f"{name}@{keep}"][setting]["all"]["accuracy"]
                assert 0 <= accuracy <= 1
                assert error >= 0
    assert len(results["otprune@0.5"]["as kept, compact"]["relation"]["minus random"]) == 2
    assert len(results["random@0.5"]["accuracy_of_seeds"]) == PLAN.random_seeds
    assert set(results["correlation"]) == set(DISTANCES)


def test_a_method_that_fails_is_reported(ran):
    results = json.loads((ran / "results.json").read_text())["results"]
    report = (ran / "report.md").read_text()
    for keep in KEEPS:
        assert "broken on purpose" in results[f"norm@{keep}"]["failed"]
        assert f"`norm@{keep}`" in report


def test_the_plots_are_there(ran):
    names = "accuracy kinds settings distances correlations overlays".split()
    report = (ran / "report.md").read_text()
    for name in names:
        assert (ran / f"{name}.png").stat().st_size > 10_000
        assert f"({name}.png)" in report


def test_keeping_everything_changes_nothing(evaluation):
    full = evaluation.unpruned()["scores"][AS_KEPT]
    for choose in evaluation.methods.values():
        kept = evaluation.pruned(1.0, choose)
        assert set(kept["evidence"]) - {1.0} == {x for x in kept["evidence"] if np.isnan(x)}
        assert kept["objects"] == [1.0] * PLAN.images
        assert max(max(row) for row in kept["distances"].values()) < 1e-6
        for setting, merge, _ in SETTINGS:
            if not merge:
                assert kept["scores"][setting]["answers"] == full["answers"]
                assert kept["scores"][setting]["losses"] == pytest.approx(full["losses"], abs=1e-3)


def test_random_draws_anew_for_every_image_and_seed():
    of = methods(PLAN.seed, PLAN.random_seeds)
    drawn = [of[f"{RANDOM} {s}"](0.25, p).seed for s in range(2) for p in range(6)]
    assert len(set(drawn)) == 12


def made_up(evaluation, right):
    """Results where a method answers right on the questions of `right[name]` alone."""

    def scores(mask):
        wrong = evaluation.questions.answer + 1
        return {
            setting: {
                "answers": np.where(mask, evaluation.questions.answer, wrong).tolist(),
                "losses": np.where(mask, 0.1, 2.0).tolist(),
            }
            for setting, _, _ in SETTINGS
        }

    count = len(evaluation.questions.answer)
    results = {UNPRUNED: {"scores": scores(np.ones(count, bool))}}
    for name, mask in right.items():
        for keep in KEEPS:
            results[f"{name}@{keep}"] = {
                "scores": scores(mask),
                "evidence": [0.5] * count,
                "objects": [1.0] * PLAN.images,
                "distances": {d: [1.0, 2.0] for d in DISTANCES},
            }
    return results


def test_the_summary_by_hand(evaluation):
    half = np.arange(len(evaluation.questions.answer)) % 2 == 0
    masks = {PUBLISHED: half, "otprune": ~half & False, f"{RANDOM} 0": half, f"{RANDOM} 1": ~half}
    summary = Summary(made_up(evaluation, masks), evaluation.questions)
    assert summary.accuracy(UNPRUNED, 1.0).value == 1
    assert summary.accuracy(PUBLISHED, 0.5).value == pytest.approx(half.mean())
    assert summary.accuracy(RANDOM, 0.5) == pytest.approx((0.5, 0.0))
    assert summary.difference("otprune", PUBLISHED, 0.5).value == pytest.approx(-half.mean())
    assert summary.retained(PUBLISHED, 0.5).value == pytest.approx(half.mean())
    assert summary.agreement("otprune", 0.5).value == 0
    assert summary.loss("otprune", 0.5) == pytest.approx((2.0, 0.0))
    assert summary.evidence(RANDOM, 0.5).value == pytest.approx(0.5)
    ranks = summary.ranks(0.5)
    assert sum(ranks.values()) == pytest.approx(1 + 2 + 3)
    assert max(ranks, key=ranks.__getitem__) == "otprune"
    assert summary.present(0.5) == [PUBLISHED, "otprune", RANDOM]


def test_without_the_unpruned_model_there_is_nothing_to_say(evaluation):
    with pytest.raises(OTPruneError, match="unpruned model failed: no memory"):
        Summary({UNPRUNED: {"failed": "no memory"}}, evaluation.questions)


def test_the_verdict_follows_the_intervals():
    def finding(low, high):
        middle = Correlation((low + high) / 2, low, high)
        return Finding(middle, Correlation(middle.value, -0.5, 0.5))

    found = {
        ("a", "answer loss", "within"): finding(0.1, 0.3),
        ("b", "answer loss", "within"): finding(-0.4, -0.1),
        ("c", "answer loss", "within"): finding(-0.1, 0.1),
        ("d", "answer loss", "pooled"): finding(0.5, 0.6),
    }
    said = verdict(found)
    assert "a smaller answer loss for a (+0.20);" in said
    assert "against the hypothesis, for b (-0.25);" in said
    assert "no clear relation for c (+0.00)." in said
    assert "d" not in said.replace("distance", "").split()
    assert "every interval over methods includes zero" in said
