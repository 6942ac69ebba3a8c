"""The synthetic table's measures and bounds, against brute force."""

import itertools
import json
import math

import pytest
import torch

from otprune.measures import distances
from otprune.selectors import OTPrune
from otprune_bench.synthetic.cases import Measures, make_tokens, ratio, win_rate
from otprune_bench.synthetic.plan import GAMMAS, KINDS, MEASURES, Plan, Size
from otprune_bench.synthetic.run import run

SUBSETS = torch.tensor(list(itertools.combinations(range(9), 3)))


@pytest.fixture(params=KINDS)
def tokens(request):
    return make_tokens(request.param, 9, 5, seed=3)


def test_measures_are_the_librarys(tokens):
    found = Measures(tokens).of(SUBSETS[::7])
    for i, chosen in enumerate(SUBSETS[::7]):
        kept = tokens[chosen]
        assert found["gaussian"][i] == pytest.approx(distances.gaussian_w2(tokens, kept), rel=1e-9)
        assert found["exact"][i] == pytest.approx(distances.exact_w2(tokens, kept), rel=1e-9)
        assert found["free mass"][i] == pytest.approx(
            distances.free_mass_w2(tokens, kept), rel=1e-9
        )
    for name, gamma in zip(GAMMAS, (0.01, "scaled"), strict=True):
        selector = OTPrune(3, gamma=gamma)
        own = Measures(tokens).of(selector.select(tokens).unsqueeze(0))[name]
        assert float(own) == pytest.approx(selector.explain(tokens).value, rel=1e-9)


def test_no_subset_surpasses_best_or_bound(tokens):
    measures = Measures(tokens)
    every, best, bounds = measures.of(SUBSETS), measures.best(SUBSETS), measures.bounds(3)
    for name in MEASURES:
        values = every[name]
        if name in GAMMAS:
            assert best[name] == float(values.max()) <= bounds[name] * (1 + 1e-9)
        else:
            assert best[name] == pytest.approx(float(values.min()), rel=1e-12)
            assert best[name] >= bounds[name] * (1 - 1e-9) > 0


def test_win_rate_and_ratio():
    others = torch.tensor([1.0, 2.0, 2.0, 3.0], dtype=torch.float64)
    assert win_rate("gaussian", 2.0, others) == (0.5 + 0.5 + 1) / 4
    assert win_rate(GAMMAS[0], 2.0, others) == (1 + 0.5 + 0.5) / 4
    assert ratio("gaussian", 4.0, 3.0) == ratio(GAMMAS[0], 3.0, 4.0) == 0.75
    assert ratio("exact", 0.0, 0.0) == 1.0


def test_figures(tmp_path):
    run(tmp_path, Plan((Size(8, 4, 2, sets=2, subsets=20), Size(40, 8, 9, 2, 20))))
    figures = json.loads((tmp_path / "results.json").read_text())["results"]
    own = figures["(8, 4, 2)/low rank/otprune, gamma scaled"]
    assert own["proof"] == "brute force"
    for figure in own.values():
        if figure != "brute force":
            assert 0 < figure["optimality"]["mean"] <= 100 + 1e-9
            assert 0 <= figure["win_rate"]["mean"] <= 100
            assert len(figure["win_rate"]["sets"]) == 2
    # greedy's promise, under the objective that it searches
    assert own["objective, gamma scaled"]["optimality"]["mean"] >= 100 * (1 - 1 / math.e)
    report = (tmp_path / "report.md").read_text()
    assert "## (8, 4, 2), normal: 2 token sets, 20 random subsets each" in report
    assert "ratios are lower bounds" in report
    assert (tmp_path / "synthetic.png").exists()
