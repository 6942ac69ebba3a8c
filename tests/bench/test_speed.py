"""The speed bench measures what it says."""

import json
import subprocess
from dataclasses import replace

import pytest
import torch

from otprune_bench.speed import cases, report
from otprune_bench.speed.plan import FULL, GRAM, QUICK, Point, Sweep
from otprune_bench.speed.run import run
from otprune_bench.speed.summary import summarise
from otprune_bench.timing import race, transcription
from otprune_bench.timing.busy import busy_processes
from otprune_bench.timing.race import (
    EXACT,
    SKETCHED,
    TRANSCRIPTION,
    contenders,
    make_tokens,
    paired,
)
from otprune_bench.timing.shapes import LLAVA

SMALL = replace(
    QUICK,
    sweeps={
        "tokens, 32 kept": Sweep(
            "m", tuple(Point(1, m, 8, 4) for m in (8, 16, 32, 64)), {EXACT: 32}, 16
        ),
        "batch": Sweep("B", tuple(Point(b, 16, 8, 4) for b in (1, 2))),
        "threads": Sweep("threads", (Point(1, 16, 8, 4, "bfloat16", 1),)),
    },
    targets=((24, 16, 5),),
    batch=(2, 16, 8, 4),
    busy=((2, 16, 8, 4),),
    many=((30, 8, 4),),
    repeats=3,
    real=(56,),
)


def test_contenders_choose_the_same():
    tokens = make_tokens(2, 40, 64, seed=0)
    assert torch.equal(tokens, make_tokens(2, 40, 64, seed=0))
    assert list(contenders(tokens, 6)) == [TRANSCRIPTION, EXACT, SKETCHED]
    exact = race.paths(6)[EXACT].select(tokens)
    assert torch.equal(exact, torch.stack([transcription.select(t, 6, 0.01) for t in tokens]))


def test_contenders_take_turns():
    calls = []
    runs = {name: lambda n=name: calls.append(n) for name in "abc"}
    seconds = race.race(runs, repeats=3, patience=1.0)
    assert calls == [*"abc", *"abc", *"bca", *"cab"]
    assert all(len(values) == 3 for values in seconds.values())
    slow = race.race(runs, repeats=9, patience=0.0)
    assert all(len(values) == 3 for values in slow.values())


def test_ratios_are_of_the_same_round():
    assert paired([1.0, 6.0, 3.0], [2.0, 3.0]) == [0.5, 2.0]
    seconds = {TRANSCRIPTION: [1.0, 10.0, 2.0], EXACT: [0.5, 5.0, 8.0]}
    figures = summarise({"seconds": seconds})
    assert figures["ratio"][EXACT]["runs"] == [0.5, 0.5, 4.0]
    assert figures["ratio"][EXACT]["median"] == 0.5


def test_exponent():
    x = [1.0, 2.0, 4.0, 8.0, 16.0]
    y = [100.0, *(3 * v**1.7 for v in x[1:])]
    assert report.exponent(x, y, fit=2) == pytest.approx(1.7)
    assert report.exponent(x, y, fit=8) is None


def test_first_token_is_encoder_selection_and_all_layers():
    one = {
        "runs": {"layer@1.0": [2.0, 3.0, 2.0], "layer@0.1": [0.5], f"{EXACT}@0.1": [0.25]},
        "encoder": [4.0],
        "layers": 10,
    }
    assert report.first_token(one, 0.1) == {
        "unpruned": {"encoder": 4.0, "selection": 0.0, "prefill": 20.0},
        EXACT: {"encoder": 4.0, "selection": 0.25, "prefill": 5.0},
    }


def test_the_13b_shape():
    shape = FULL.models[-1].shape
    assert (shape.width, shape.all_layers, shape.visual) == (5120, 40, 576)
    assert LLAVA.width == 4096


def test_a_sentence_never_runs_on_from_a_table():
    seconds = {TRANSCRIPTION: [1.0], EXACT: [0.5]}
    one = summarise({"seconds": seconds}) | {"peak_bytes": {}, "objectives": {SKETCHED: 0.99}}
    lines = report._contenders(one, {}).splitlines()
    assert all(line.endswith("|") for line in lines if line.startswith("|"))
    assert lines[-1] == f"Objective of {SKETCHED} / exact: 0.9900."


class Encoder:
    """More features than the default rank."""

    def tokens(self, image, size):
        assert image.size[0] >= 100
        return make_tokens(1, (size // 14) ** 2, 300, seed=image.size[0])[0]


def test_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(cases.vit_s, "load", Encoder)
    threads = torch.get_num_threads()
    run(tmp_path, SMALL)
    assert torch.get_num_threads() == threads
    figures = json.loads((tmp_path / "results.json").read_text())["results"]
    target = figures["target/(24, 16, 5)"]
    assert target["objectives"][EXACT] == 1
    assert target["peak_bytes"][TRANSCRIPTION] > target["peak_bytes"][GRAM] >= 24 * 24 * 4
    assert {"transport", "dpp"} < set(target["ratio"])
    assert EXACT not in figures["tokens, 32 kept/1 x (64, 8, 4) float32"]["seconds"]
    busy = figures["busy/2 x (16, 8, 4)"]
    assert set(busy) == {"quiet", "busy"}
    assert all(len(part["ratio"][EXACT]["runs"]) == 3 for part in busy.values())
    assert set(figures["many/(30, 8, 4)"]["seconds"]) == {"otprune", "transport", "divprune"}
    assert len(figures["model/tiny LLaVA"]["encoder"]) == 2
    shares = figures["real/16 tokens"]["shares"]
    assert len(shares["0.01"]) == len(shares["scaled"]) == 4
    assert all(0.5 < share < 1.001 for share in shares["0.01"] + shares["scaled"])
    said = (tmp_path / "report.md").read_text()
    assert "| (16, 300, 2) | " in said
    assert "| tokens, 32 kept | time | m >= 16 | m^" in said
    assert "### A batch of 2 at (16, 8, 4)" in said
    assert "| (2, 16, 8, 4) | exact | " in said
    assert "| (30, 8, 4) | transport | " in said
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "scaling.png",
        "axes.png",
        "models.png",
    }


def test_busy_is_beside_processes_that_spin(monkeypatch):
    """As many as said, while the second race is run and no longer."""
    started = []

    class Watched(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    def racing(*_):
        return {TRANSCRIPTION: [1.0], EXACT: [float(sum(one.poll() is None for one in started))]}

    monkeypatch.setattr(subprocess, "Popen", Watched)
    monkeypatch.setattr(cases, "race", racing)
    found = cases._busy(SMALL, (1, 16, 8, 4))
    assert [found[name]["seconds"][EXACT] for name in ("quiet", "busy")] == [[0.0], [2.0]]
    assert all(one.poll() is not None for one in started)


def test_busy_processes_end_with_what_fails_beside_them():
    beside = busy_processes(1)
    (made,) = beside.__enter__()
    assert made.poll() is None
    assert not beside.__exit__(RuntimeError, RuntimeError(), None)
    assert made.poll() is not None


def test_what_fails_is_reported(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(cases, "measure", broken)
    monkeypatch.setattr("otprune_bench.timing.race.transcription.select", broken)
    run(tmp_path, SMALL)
    said = (tmp_path / "report.md").read_text()
    assert "`model/tiny LLaVA`: RuntimeError: no such luck" in said
    assert "Failed: RuntimeError: no such luck" in said
    assert "| (2, 16, 8, 4) | failed: RuntimeError: no such luck |" in said
