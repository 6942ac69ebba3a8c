"""The bench of the distance term end to end on a few images."""

import json
from dataclasses import replace

import pytest

from otprune.errors import OTPruneError
from otprune_bench.distance.cases import Evaluation
from otprune_bench.distance.plan import QUICK, SETTINGS, Plan
from otprune_bench.distance.run import run
from otprune_bench.embedded.evaluation import EMBEDDED

PLAN = replace(QUICK, images=2, keeps=(0.05,), before=(0, 2))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distance")
    run(folder, PLAN, folder)
    return folder


def test_a_run_has_every_setting(ran):
    results = json.loads((ran / "results.json").read_text())["results"]
    assert set(results) == {
        f"{EMBEDDED}, {n} before, {what}" for n in (0, 2) for what in ("unpruned", "keep 0.05")
    }
    assert set(results[f"{EMBEDDED}, 2 before, keep 0.05"]) == set(map(str, SETTINGS))
    assert len(SETTINGS) == 2 * 2 * 3 * 3


def test_the_report_compares_what_decides_the_defaults(ran):
    report = (ran / "report.md").read_text()
    assert "## What decides the defaults" in report
    assert report.count("| preserved, merged, token |") == 2


def test_the_term_changes_losses_and_positions_do_too(tmp_path):
    evaluation = Evaluation(PLAN, tmp_path)
    made = evaluation.pruned(EMBEDDED, 2, 0.05, "dpp")
    losses = [
        made[f"{positions}, as kept, none, {distance}"]["loss"]
        for positions in ("preserved", "compact")
        for distance in ("none", "visual", "all")
    ]
    assert len(set(losses)) == 6


def test_bad_settings_are_refused():
    with pytest.raises(OTPruneError, match="expected validation or test"):
        Plan(split="training")
