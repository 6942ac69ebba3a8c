"""`otprune bench`: every bench is one command that leaves a folder."""

import json

import pytest

from otprune_bench.efficiency import cases as efficiency
from otprune_bench.serving import cases as serving
from otprune_bench.synthetic import cases as synthetic


@pytest.mark.parametrize("bench", [efficiency, serving, synthetic])
def test_a_bench_gets_its_options(run, tmp_path, monkeypatch, bench):
    name = bench.__name__.rpartition(".")[2]
    asked = []
    monkeypatch.setattr(bench, "run", lambda *words: asked.append(words))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "here"
    result = run("bench", name, "--out", place, "--seed", "3", "--quick")
    assert (result.status, result.err) == (0, "")
    assert f"report written to {place / 'report.md'}" in result.out.replace("\n", "")
    run("bench", name)
    run("bench", name, "--quick")
    assert asked[0] == (place, 3, True)
    assert [str(words[0]) for words in asked[1:]] == [
        f"out/bench/{name}",
        f"out/bench/{name}-quick",
    ]


@pytest.mark.parametrize("bench", ["quality", "serving", "speed"])
def test_a_folder_that_cannot_be_is_refused_before_anything_runs(refused, tmp_path, bench):
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot make this folder" in refused("bench", bench, "--out", file)
    assert "cannot make this folder" in refused("bench", bench, "--out", file / "below")
    assert "--out" in refused("bench", bench, "--out", "/proc/below")
    assert "cannot write in /proc" in refused("bench", bench, "--out", "/proc")


@pytest.mark.parametrize("bench", ["quality", "mass", "tokens", "stream"])
def test_photographs_that_would_not_be_looked_at_are_refused(refused, tmp_path, bench):
    assert "no meaning with --quick" in refused("bench", bench, "--quick", "--photos", tmp_path)


def test_compare_two_folders(run, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "QUICK", (synthetic.Size(6, 3, 2, sets=1, subsets=5),))
    for name, seed in (("a", 0), ("b", 1)):
        result = run("bench", "synthetic", "--out", tmp_path / name, "--seed", seed, "--quick")
        assert result.status == 0
    result = run("bench", "compare", tmp_path / "a", tmp_path / "b", "--rows", "3")
    assert (result.status, result.err) == (0, "")
    assert "| seed | 0 | 1 |" in result.out
    assert "The 3 largest changes:" in result.out
    assert json.loads((tmp_path / "a" / "results.json").read_text())["settings"]["seed"] == 0


def test_another_seed_does_not_go_on_where_the_first_stopped(run, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "QUICK", (synthetic.Size(6, 3, 2, sets=1, subsets=5),))
    assert run("bench", "synthetic", "--out", tmp_path, "--quick").status == 0
    said = refused("bench", "synthetic", "--out", tmp_path, "--quick", "--seed", "1")
    assert "cases of other settings" in said


def test_compare_without_results(refused, tmp_path):
    assert "has no results.json" in refused("bench", "compare", tmp_path, tmp_path)
