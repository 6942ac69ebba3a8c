"""A run's folder says everything that its figures depend on."""

import json
import sys

import pytest
import torch
from PIL import Image

import otprune
from otprune_bench.figures.plots import LOOKS
from otprune_bench.runs.report import figure, table, write_report


def test_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/otprune", "bench", "x", "--out", "a b"])
    results = {"case": {"median": torch.tensor(0.5)}, "other": {"failed": "E: no"}}
    write_report(
        tmp_path / "new",
        results,
        "# Title\n\nText.\n\n",
        {"seed": 3, "keeps": [1, 0.5], "models": []},
    )
    whole = json.loads((tmp_path / "new" / "results.json").read_text())
    assert whole["results"] == {"case": {"median": 0.5}, "other": {"failed": "E: no"}}
    assert whole["settings"] == {"seed": 3, "keeps": [1, 0.5], "models": []}
    assert whole["command"] == "otprune bench x --out 'a b'"
    assert whole["environment"]["otprune"] == otprune.__version__
    assert whole["environment"]["torch"] == torch.__version__
    assert whole["environment"]["threads"] == torch.get_num_threads()
    report = (tmp_path / "new" / "report.md").read_text()
    assert report.startswith("# Title\n\nText.\n\n## How this was made\n")
    assert "settings: seed 3, keeps 1, 0.5, models none" in report
    assert whole["date"][:10] in report


def test_table():
    assert table(["a", "b"], [["x", 1], ["y", "2.5"]]).splitlines() == [
        "| a | b |",
        "| --- | ---: |",
        "| x | 1 |",
        "| y | 2.5 |",
    ]


def test_figure_is_saved_when_it_was_drawn(tmp_path):
    with figure(tmp_path / "new", "plot", size=(2, 1)) as axes:
        axes.plot([0, 1], [0, 1])
    with Image.open(tmp_path / "new" / "plot.png") as drawn:
        assert drawn.size == (280, 140)
    with pytest.raises(ZeroDivisionError), figure(tmp_path, "broken"):
        1 / 0  # noqa: B018
    assert not (tmp_path / "broken.png").exists()


def test_without_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with (
        pytest.raises(otprune.MissingDependencyError, match="pip install matplotlib"),
        figure(tmp_path, "plot"),
    ):
        pass


def test_no_two_methods_look_alike():
    colors = [look["color"] for look in LOOKS.values()]
    assert len(set(colors)) == len(colors) > 8
