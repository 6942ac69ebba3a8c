"""`otprune bench serving` without a server: its cases, its figures, its report."""

from dataclasses import replace
from pathlib import Path

import pytest

from otprune import MissingDependencyError
from otprune_bench.served.server import Reply
from otprune_bench.serving import plan as serving
from otprune_bench.serving import report, run
from otprune_bench.serving.cases import Servers, figures


def test_without_vllm_nothing_is_measured_and_nothing_written(tmp_path, monkeypatch):
    monkeypatch.setattr("otprune_bench.served.run.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="vLLM is not installed here"):
        run.run(tmp_path / "out", serving.QUICK)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("against", [None, Path("earlier")])
@pytest.mark.parametrize("plan", [serving.QUICK, serving.FULL], ids=["quick", "full"])
def test_every_round_runs_every_arm_of_every_load_once(plan, against):
    plan = replace(plan, against=against)
    keys = [key for key, _ in Servers(plan).cases()]
    arms = list(plan.arms(plan.workloads[0]))
    assert arms[:5] == ["stock", "keep 1.0", "keep 0.5", "keep 0.25", "keep 0.1"]
    assert ("before: keep 0.1" in arms) == (against is not None)
    wanted = {
        serving.key(workload, concurrent, arm, round_)
        for workload in plan.workloads
        for concurrent, _ in plan.loads
        for arm in plan.arms(workload)
        for round_ in range(1, plan.rounds + 1)
    }
    assert len(keys) == len(set(keys))
    assert set(keys) == wanted


def test_figures_of_a_load():
    replies = [Reply(0.1, 0.5, 30, 4, ""), Reply(0.3, 0.7, 30, 4, ""), Reply(0.2, 0.6, 30, 4, "")]
    made = figures(replies, seconds=1.5)
    assert (made["prompt"], made["first"], made["whole"]) == (30, 0.2, 0.6)
    assert (made["answered"], made["tokens"]) == (2.0, 8.0)


def test_the_report_pairs_within_rounds_and_drops_nothing(tmp_path):
    plan = replace(serving.QUICK, against=tmp_path)
    (workload,) = plan.workloads
    found = {}
    for concurrent, number in plan.loads:
        for name, arm in plan.arms(workload).items():
            keep = (arm.asked or {}).get("keep", 1.0)
            first = 0.1 * keep * (2 if arm.before else 1)
            replies = [Reply(first, 0.5, 10, 4, "")] * number
            found[serving.key(workload, concurrent, name, 1)] = figures(replies, 1.0)
    found[serving.key(workload, 4, "keep 0.5", 1)] = {"failed": "ValueError: no"}
    text = report.write(plan, found)
    assert "| keep 0.25 | 10 | 25 | 0.25 | 500 |" in text
    assert f"Of the earlier build ({tmp_path.name}):" in text
    assert "| keep 0.1, encoder 0.35 after 0.6 | 1.00 | 0.50 | 1.00 |" in text
    assert "| keep 0.5 |" + " failed |" * 7 in text
    assert "ValueError: no" in text
    report.draw(tmp_path, plan, found)
    assert (tmp_path / "load.png").stat().st_size > 10_000
