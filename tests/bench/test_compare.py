"""What changed between two runs."""

import pytest

from otprune.errors import OTPruneError
from otprune_bench.runs.compare import compare
from otprune_bench.runs.report import write_report


def spread(median, low, high):
    return {"median": median, "low": low, "high": high, "runs": [low, median, high]}


def run(folder, results, **settings):
    write_report(folder, results, "# Bench", {"seed": 0, **settings})
    return folder


@pytest.fixture
def runs(tmp_path):
    before = {
        "a": {"time": spread(1.0, 0.9, 1.1), "bytes": 100, "same": 1.0, "deep": {"x": 2.0}},
        "b": {"accuracy": 0.5, "standard_error": 0.02},
        "c": {"failed": "E: no"},
        "d": {"n": 1},
        "gone": {"n": 1},
    }
    after = {
        "a": {"time": spread(2.0, 1.9, 2.1), "bytes": 50, "same": 1.001, "deep": {"x": 2.5}},
        "b": {"accuracy": 0.53, "standard_error": 0.02},
        "c": {"n": 1},
        "d": {"failed": "E: yes"},
        "new": {"n": 1},
    }
    return run(tmp_path / "A", before), run(tmp_path / "B", after, keep=0.5)


def test_largest_changes_first(runs):
    said = compare(*runs)
    lines = [line for line in said.splitlines() if line.startswith(("| a: ", "| b: "))]
    assert lines == [
        "| a: time | 1 | 2 | +100.0% |  |",
        "| a: bytes | 100 | 50 | -50.0% |  |",
        "| a: deep.x | 2 | 2.5 | +25.0% |  |",
        "| b: accuracy | 0.5 | 0.53 | +6.0% | noise |",
    ]
    assert "4 of 5 numbers changed by more than 1.00%." in said
    assert "a: same | 1 | 1.001 | +0.1%" in compare(*runs, least=0)
    assert "The 2 largest changes:" in compare(*runs, rows=2)


def test_settings_cases_and_failures(runs):
    said = compare(*runs)
    assert "| keep | None | 0.5 |" in said
    assert f"Only in {runs[0]}: gone." in said
    assert f"Only in {runs[1]}: new." in said
    assert "- d fails now: E: yes" in said
    assert "- c no longer fails" in said


def test_a_run_with_itself(runs):
    said = compare(runs[0], runs[0])
    assert "Settings and environment are the same." in said
    assert "0 of 7 numbers changed" in said
    assert "- c still fails" in said


def test_refused(runs, tmp_path):
    with pytest.raises(OTPruneError, match=r"has no results\.json"):
        compare(runs[0], tmp_path)
    with pytest.raises(OTPruneError, match="no case in common"):
        compare(runs[0], run(tmp_path / "C", {"z": {"n": 1}}))
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / "results.json").write_text("{")
    with pytest.raises(OTPruneError, match="is not JSON"):
        compare(runs[0], tmp_path / "D")
