"""Cases run once each, survive interrupts, and are never dropped."""

import json

import numpy as np
import pytest
import torch

from otprune.errors import OTPruneError
from otprune_bench.runs.cases import FILE, failures, run_cases


def counted(calls, key, result):
    def case():
        calls.append(key)
        if isinstance(result, BaseException):
            raise result
        return result

    return key, case


def test_results_in_order_and_on_disk(tmp_path):
    calls = []
    cases = [
        counted(calls, "b", {"x": torch.tensor(2.5), "y": np.float32(0.5), "z": float("nan")}),
        counted(calls, "a", {"list": (1, np.arange(2))}),
    ]
    results = run_cases(tmp_path / "new", cases, "test")
    assert results == {"b": {"x": 2.5, "y": 0.5, "z": None}, "a": {"list": [1, [0, 1]]}}
    assert list(results) == calls == ["b", "a"]
    lines = [json.loads(line) for line in (tmp_path / "new" / FILE).read_text().splitlines()]
    assert [line.get("case") for line in lines] == [None, "b", "a"]
    assert all(line["seconds"] >= 0 for line in lines[1:])


def test_interrupt_loses_no_finished_case(tmp_path):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        run_cases(
            tmp_path,
            [counted(calls, "a", {"n": 1}), counted(calls, "b", KeyboardInterrupt())],
            "test",
        )
    with (tmp_path / FILE).open("a") as file:
        file.write('{"case": "b", "resu')  # the interrupt came while a line was written
    again = [counted(calls, key, {"n": n}) for n, key in enumerate("abc", start=1)]
    assert run_cases(tmp_path, again, "test") == {"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 3}}
    assert calls == ["a", "b", "b", "c"]
    assert run_cases(tmp_path, again, "test")["c"] == {"n": 3}
    assert calls == ["a", "b", "b", "c"]


def test_a_case_that_raises_is_reported_and_tried_again(tmp_path, capsys):
    calls = []
    cases = [counted(calls, "a", ValueError("no\nsuch thing")), counted(calls, "b", {"n": 1})]
    results = run_cases(tmp_path, cases, "test")
    assert results == {"a": {"failed": "ValueError: no such thing"}, "b": {"n": 1}}
    assert "a failed: ValueError: no such thing" in capsys.readouterr().err
    assert "1 of 2 cases failed" in "\n".join(failures(results))
    assert "- `a`: ValueError: no such thing" in failures(results)
    assert "Traceback" in (tmp_path / FILE).read_text()

    results = run_cases(tmp_path, [counted(calls, "a", {"n": 0}), cases[1]], "test")
    assert results == {"a": {"n": 0}, "b": {"n": 1}}
    assert calls == ["a", "b", "a"]
    assert failures(results) == []
    assert run_cases(tmp_path, cases, "test")["a"] == {"n": 0}


def test_cases_of_other_settings_are_not_mixed(tmp_path):
    run_cases(tmp_path, [("a", dict)], "test", {"seed": 0})
    run_cases(tmp_path, [("b", dict)], "test", {"seed": 0})
    with pytest.raises(OTPruneError, match="other settings"):
        run_cases(tmp_path, [("a", dict)], "test", {"seed": 1})


def test_keys_are_unique(tmp_path):
    with pytest.raises(OTPruneError, match="two cases are named 'a'"):
        run_cases(tmp_path, [("a", dict), ("a", dict)], "test")


def test_what_json_cannot_hold_is_a_failure(tmp_path):
    cases = [("a", lambda: {"x": object()}), ("b", lambda: {"x": 1})]
    results = run_cases(tmp_path, cases, "test")
    assert "which JSON cannot" in results["a"]["failed"]


def test_where_every_case_fails_there_is_no_report(tmp_path):
    cases = [counted([], "a", ValueError("no server")), counted([], "b", ValueError("nor here"))]
    with pytest.raises(OTPruneError, match=r"all 2 cases failed.*the first: ValueError: no server"):
        run_cases(tmp_path, cases, "test")
    cases[1] = counted([], "b", {"x": 1})
    assert "failed" in run_cases(tmp_path, cases, "test")["a"]  # the others are worth a report
