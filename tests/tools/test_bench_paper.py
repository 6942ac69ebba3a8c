"""The paper's table: what is shown, what is run again, and the errors without a hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from otprune.errors import OTPruneError
from otprune.selectors import METHODS
from tools import bench_paper

RESULTS = {
    "config": {"model_args": "pretrained=m,keep=1.0", "limit": None},
    "results": {
        "gqa": {"alias": "gqa", "exact_match_stderr,none": 0.003, "exact_match,none": 0.6196},
        "mme": {"mme_cognition_score,none": 300.0, "mme_perception_score,none": 1506.4},
        "pope": {"pope_accuracy,none": 0.87, "pope_f1_score,flexible": 0.8584},
        "mine": {"alias": "mine", "right_stderr,none": 0.1, "right,none": 0.5},
    },
    "throughput": {"avg_visual_tokens_after": 576.0},
}
TASKS = ["gqa", "mme", "pope", "mine"]


def rows(text):
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def test_measured_figures_stand_below_the_published_ones_in_the_same_unit():
    table = bench_paper.render("m", bench_paper.ROWS, {"full": RESULTS}, TASKS, None)
    found = rows(table)
    assert found[""] == ["TFLOP", "tokens", "GQA", "MME-P", "POPE", "mine", "average rank"]
    assert found["full, published"] == ["3.228", "-", "61.96", "1506", "85.84", "-", "-"]
    assert found["full, measured"] == ["-", "576", "61.96", "1506", "85.84", "0.50", "-"]
    assert list(found).index("full, measured") == list(found).index("full, published") + 1
    assert found["OTPrune, published"][-1] == "2.36"


def test_a_failed_run_is_shown_as_failed():
    table = bench_paper.render("m", bench_paper.ROWS, {"full": RESULTS, "otprune": None}, TASKS, 10)
    assert rows(table)["OTPrune, as published, measured"][1:-1] == ["failed"] * 5
    assert "the first 10 questions" in table


def test_every_method_is_a_row_by_its_name_and_settings_make_others():
    rows = bench_paper.rows_of("full,otprune,cdpruner,transport", ["method=mmtok,keep=64"])
    assert rows["otprune"] is bench_paper.ROWS["otprune"]
    assert rows["cdpruner"] == bench_paper.Row(None, "cdpruner", "keep=0.098,method=cdpruner")
    assert rows["method=mmtok,keep=64"].arguments == "method=mmtok,keep=64"
    assert set(bench_paper.rows_of(",".join(METHODS), [])) == set(METHODS)
    (heard,) = bench_paper.rows_of("", ["method=transport,question=0.8"]).items()
    assert heard[1].arguments == "keep=0.098,method=transport,question=0.8"
    table = bench_paper.render("m", dict([heard]), {heard[0]: RESULTS}, ["gqa"], None)
    assert found_last(table) == ["method=transport,question=0.8, measured", "-", "576", "61.96"]


def found_last(table):
    shown = [line for line in table.splitlines() if line.startswith("|")]
    return [cell.strip() for cell in shown[-1].strip("|").split("|")][:4]


@pytest.mark.parametrize(
    ("names", "more", "said"),
    [
        ("full,cdprunr", [], "no row 'cdprunr': expected some of full,divprune,.*,cdpruner"),
        ("full", ["transport"], "--row transport: expected NAME=VALUE"),
        ("full", ["method=transport,question"], "expected NAME=VALUE"),
        ("full", ["method=../transport"], "expected NAME=VALUE"),
        ("full", ["pretrained=m,method=grid"], "leave pretrained out"),
    ],
)
def test_rows_that_are_refused(names, more, said):
    with pytest.raises(OTPruneError, match=said):
        bench_paper.rows_of(names, more)


def test_results_are_taken_again_only_for_the_very_same_arguments(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "20260101_000000_results.json").write_text(json.dumps(RESULTS))

    def find(arguments="pretrained=m,keep=1.0", tasks=("gqa", "pope"), limit=None):
        return bench_paper.results_of(tmp_path, arguments, list(tasks), limit)

    assert find() == RESULTS
    assert find(arguments="pretrained=m,keep=0.5") is None
    assert find(tasks=("gqa", "seedbench")) is None
    assert find(limit=8) is None


def test_every_benchmark_of_the_paper_has_a_column():
    assert len({b.task for b in bench_paper.BENCHMARKS}) == 11
    shown = {b.label for b in bench_paper.BENCHMARKS} | {"TFLOP", "rank"}
    assert all(set(figures) <= shown for figures in bench_paper.PUBLISHED.values())
    assert {row.published for row in bench_paper.ROWS.values()} - {None} <= set(
        bench_paper.PUBLISHED
    )


def test_without_a_hub_one_line_says_so(monkeypatch):
    def away(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", away)
    with pytest.raises(OTPruneError, match="hub, which cannot be reached") as error:
        bench_paper.check_hub(["gqa"])
    assert "\n" not in str(error.value)
    bench_paper.check_hub(["mine"])  # needs none


def test_a_model_that_is_not_there_is_one_line_on_stderr(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench_paper", "--model", "llava-hf/llava-1.5-7b-hf"],
        cwd=Path(bench_paper.__file__).parent.parent,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --model llava-hf/llava-1.5-7b-hf: ")
    assert done.stderr.count("\n") == 1
