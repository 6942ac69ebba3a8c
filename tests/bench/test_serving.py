"""`otprune bench serving` without a server: its cases, its figures, its report."""

import pytest

from otprune import MissingDependencyError
from otprune_bench.serving import cases as serving
from otprune_bench.serving import report as serving_report
from otprune_bench.serving.server import Reply


def test_without_vllm_nothing_is_measured_and_nothing_written(tmp_path, monkeypatch):
    monkeypatch.setattr(serving.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="vLLM is not installed here"):
        serving.run(tmp_path / "out", 0, quick=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scope", [serving.QUICK, serving.FULL], ids=["quick", "full"])
def test_every_round_runs_every_arm_of_every_load_once(scope):
    keys = [key for key, _ in serving._Bench(scope, seed=0).cases()]
    arms = [arm for arm, _ in serving.arms()]
    assert arms == ["stock", "keep 1.0", "keep 0.5", "keep 0.25", "keep 0.1"]
    wanted = {
        serving.key(workload, concurrent, arm, round_)
        for workload in scope.workloads
        for concurrent, _ in scope.loads
        for arm in arms
        for round_ in range(1, scope.rounds + 1)
    }
    assert len(keys) == len(set(keys))
    assert set(keys) == wanted


def test_figures_of_a_load():
    replies = [Reply(0.1, 0.5, 30, 4, ""), Reply(0.3, 0.7, 30, 4, ""), Reply(0.2, 0.6, 30, 4, "")]
    made = serving.figures(replies, seconds=1.5)
    assert (made["prompt"], made["first"], made["whole"]) == (30, 0.2, 0.6)
    assert (made["answered"], made["tokens"]) == (2.0, 8.0)


def test_the_report_pairs_within_rounds_and_drops_nothing(tmp_path):
    scope = serving.QUICK
    (workload,) = scope.workloads
    found = {}
    for concurrent, number in scope.loads:
        for arm, keep in serving.arms():
            replies = [Reply(0.1 * (keep or 1.0), 0.5, 10, 4, "")] * number
            found[serving.key(workload, concurrent, arm, 1)] = serving.figures(replies, 1.0)
    found[serving.key(workload, 4, "keep 0.5", 1)] = {"failed": "ValueError: no"}
    text = serving_report.write(scope, found)
    assert "| keep 0.25 | 10 | 25 | 0.25 | 500 |" in text
    assert "| keep 0.5 |" + " failed |" * 7 in text
    assert "| keep 0.5 |" + " failed |" * 7 in text
    assert "ValueError: no" in text
    serving_report.draw(tmp_path, scope, found)
    assert (tmp_path / "load.png").stat().st_size > 10_000
