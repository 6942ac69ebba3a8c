"""The stream bench measures what it says."""

import json
from dataclasses import replace

import pytest
import torch

from otprune_bench.stream import cases
from otprune_bench.stream.cases import Camera
from otprune_bench.stream.plan import CUT, PAN, QUICK, STREAM, VIDEO
from otprune_bench.stream.report import drift
from otprune_bench.stream.run import run

TINY = replace(QUICK, frames=40, tokens=12, features=32, rate=2.0, every=10, videos=1, length=5)


def test_a_camera_repeats_pans_and_cuts():
    one, other = Camera(30, 64, seed=0), Camera(30, 64, seed=0)
    frames = [one.frame() for _ in range(CUT + 1)]
    assert torch.equal(frames[0], other.frame())
    moved = torch.cosine_similarity(frames[1][:-PAN], frames[0][PAN:])
    cut = torch.cosine_similarity(frames[-1][:-PAN], frames[-2][PAN:])
    assert moved.min() > 0.95 > cut.max()


def test_drift_is_from_the_first_fifth_to_the_last():
    points = [{"x": value} for value in (1e6, 2.0, 2.0, 7.0, *[5.0] * 9, 3.0, 3.0, 9.0)]
    assert drift(points, "x") == pytest.approx(0.5)


def test_a_run(tmp_path):
    run(tmp_path, TINY, tmp_path / "no photographs")
    figures = json.loads((tmp_path / "results.json").read_text())["results"]
    points = figures["long stream"]["points"]
    assert [p["frames"] for p in points] == [10, 20, 30, 40]
    assert points[-1]["kept"] == figures["long stream"]["kept"] <= 16 + 2 * 40
    assert figures[VIDEO]["of best value"]["mean"] == 1
    assert figures["dpp, frame by frame, 5%"]["share"]["mean"] == pytest.approx(0.05, rel=0.01)
    for name in (STREAM, VIDEO, "random, frame by frame"):
        assert figures[name]["share"]["mean"] == figures[STREAM]["share"]["mean"]
    assert (
        figures[STREAM]["arrivals"]["mean"] > figures["random, frame by frame"]["arrivals"]["mean"]
    )
    assert sum(figures["first video"][STREAM]) == sum(figures["first video"][VIDEO])
    assert {path.name for path in tmp_path.glob("*.png")} == {"long.png", "video.png"}
    assert "| all frames at hand |" in (tmp_path / "report.md").read_text()


def test_what_fails_is_reported(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(cases, "select_video", broken)
    run(tmp_path, TINY, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "`video 1`: RuntimeError: no such luck" in report
    assert "frames a second" in report
