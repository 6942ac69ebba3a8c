"""`otprune bench`: every bench of the registry is one command that leaves a folder."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from inspect import signature
from types import SimpleNamespace

import pytest

from otprune_bench import command
from otprune_bench.registry import BENCHES
from otprune_bench.synthetic.plan import Plan, Size

NAMES = [bench.name for bench in BENCHES]
TINY = Plan((Size(6, 3, 2, sets=1, subsets=5),), quick=True)


@pytest.mark.parametrize("bench", BENCHES, ids=NAMES)
def test_a_bench_gets_its_options(run, tmp_path, monkeypatch, bench):
    asked = []
    home = import_module(f"otprune_bench.{bench.name}.run")
    plans = import_module(f"otprune_bench.{bench.name}.plan")
    monkeypatch.setattr(home, "run", lambda *words: asked.append(words))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "here"
    result = run("bench", bench.name, "--out", place, "--seed", "3", "--quick")
    assert (result.status, result.err) == (0, "")
    assert f"report written to {place / 'report.md'}" in result.out.replace("\n", "")
    run("bench", bench.name)
    run("bench", bench.name, "--quick")
    assert [words[1] for words in asked] == [
        replace(plans.QUICK, seed=3),
        plans.FULL,
        plans.QUICK,
    ]
    assert [str(words[0]) for words in asked] == [
        str(place),
        f"out/bench/{bench.name}",
        f"out/bench/{bench.name}-quick",
    ]
    assert [set(plan.settings()) >= {"seed"} for _, plan, *_ in asked] == [True] * 3


def test_a_bench_that_is_told_to_end_ends_what_it_started(run, tmp_path, monkeypatch):
    ended = []

    def told_to_end(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            ended.append(True)

    monkeypatch.setattr(import_module("otprune_bench.synthetic.run"), "run", told_to_end)
    before = signal.getsignal(signal.SIGTERM)
    result = run("bench", "synthetic", "--quick", "--out", tmp_path)
    assert result.status == 130  # as by Ctrl-C
    assert ended
    assert signal.getsignal(signal.SIGTERM) == before


def test_help_is_light():
    """It loads every command of every bench, and none of what they measure."""
    words = [["bench", "--help"], *(["bench", name, "--help"] for name in NAMES)]
    code = (
        f"import sys; from otprune.cli import main; [main(x) for x in {words}]; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "otprune_bench.registry" in loaded
    assert not {"torch", "numpy", "transformers", "PIL", "matplotlib"} & loaded


@pytest.mark.parametrize("bench", NAMES)
def test_a_folder_that_cannot_be_is_refused_before_anything_runs(refused, tmp_path, bench):
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot make this folder" in refused("bench", bench, "--out", file)
    assert "cannot make this folder" in refused("bench", bench, "--out", file / "below")
    assert "--out" in refused("bench", bench, "--out", "/proc/below")
    assert "cannot write in /proc" in refused("bench", bench, "--out", "/proc")


def test_photographs_that_would_not_be_looked_at_are_refused(refused, tmp_path):
    with_photos = [b.name for b in BENCHES if "photos" in signature(b.command()).parameters]
    assert set(with_photos) >= {"quality", "mass", "tokens", "stream"}
    for name in with_photos:
        assert "no meaning with --quick" in refused("bench", name, "--quick", "--photos", tmp_path)


def test_another_model_is_named_and_a_split_is_known(refused, tmp_path):
    said = refused("bench", "mass", "--quick", "--out", tmp_path, "--model", "other")
    assert "expected NAME=FOLDER" in said
    said = refused("bench", "mass", "--quick", "--out", tmp_path, "--split", "training")
    assert "expected validation or test" in said


def test_all_runs_what_needs_no_server_and_names_what_failed(run, refused, tmp_path, monkeypatch):
    asked = []

    def start(words):
        asked.append(words[3:])
        return SimpleNamespace(returncode=int(words[4] == failing))

    monkeypatch.setattr(command.subprocess, "run", start)
    failing = None
    assert run("bench", "all", "--quick", "--seed", "2", "--out", tmp_path).status == 0
    assert [words[1] for words in asked] == [bench.name for bench in BENCHES if not bench.server]
    assert "serving" not in {words[1] for words in asked}
    options = ["--seed", "2", "--quick", "--out", str(tmp_path / "mass")]
    assert ["bench", "mass", *options] in asked
    assert "gpu" in {words[1] for words in asked}  # quick, on the CPU
    asked.clear()
    failing = "mass"
    assert "these benches failed" in refused("bench", "all")
    assert asked[-1] == ["bench", asked[-1][1], "--seed", "0"]
    assert asked[-1][1] != failing  # the others were still run
    assert "gpu" not in {words[1] for words in asked}  # a whole run needs a card


def test_compare_two_folders(run, tmp_path, monkeypatch):
    monkeypatch.setattr("otprune_bench.synthetic.plan.QUICK", TINY)
    for name, seed in (("a", 0), ("b", 1)):
        result = run("bench", "synthetic", "--out", tmp_path / name, "--seed", seed, "--quick")
        assert result.status == 0
    result = run("bench", "compare", tmp_path / "a", tmp_path / "b", "--rows", "3")
    assert (result.status, result.err) == (0, "")
    assert "| seed | 0 | 1 |" in result.out
    assert "The 3 largest changes:" in result.out
    assert json.loads((tmp_path / "a" / "results.json").read_text())["settings"]["seed"] == 0


def test_another_seed_does_not_go_on_where_the_first_stopped(run, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("otprune_bench.synthetic.plan.QUICK", TINY)
    assert run("bench", "synthetic", "--out", tmp_path, "--quick").status == 0
    said = refused("bench", "synthetic", "--out", tmp_path, "--quick", "--seed", "1")
    assert "cases of other settings" in said


def test_compare_without_results(refused, tmp_path):
    assert "has no results.json" in refused("bench", "compare", tmp_path, tmp_path)
