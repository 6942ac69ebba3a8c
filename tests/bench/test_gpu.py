"""The GPU bench, on a CPU: it runs, resumes, ends in time, and says what was not run."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from otprune import Cues, DPPPrune, OTPrune
from otprune.errors import OTPruneError
from otprune_bench.gpu import checks, families, kernels, report
from otprune_bench.gpu.__main__ import main
from otprune_bench.gpu.cases import cases, expected_seconds
from otprune_bench.gpu.choices import compare
from otprune_bench.gpu.objectives import value
from otprune_bench.gpu.plan import (
    EXACT,
    EXACT_GRAPH,
    FULL,
    LEAST,
    PUBLISHED,
    QUICK,
    STAGED,
    Model,
    Point,
)
from otprune_bench.gpu.run import part_of, run
from otprune_bench.gpu.summary import Target, targets
from otprune_bench.runs.cases import run_cases
from otprune_bench.runs.deadline import Deadline, SkipError
from otprune_bench.timing.shapes import QWEN_4000, TINY_QWEN
from tests.selectors.test_golden import CASES, remake

ROOT = Path(__file__).parents[2]
SMALL = replace(
    QUICK,
    device="cpu",
    checked=Point(2, 20, 12, 4),
    points=(Point(1, 24, 16, 3),),
    frames=(2, 8, 6),
    models=(Model("TINY", "tiny LLaVA", 64, 65, (1, 2)),),
    attentions=("sdpa",),
    profiled=(Point(1, 24, 16, 3),),
)


def words(folder):
    return (folder / "report.md").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole run of the small plan."""
    folder = tmp_path_factory.mktemp("gpu")
    run(folder, SMALL)
    return folder


def test_a_run_on_a_cpu_says_what_it_is_and_answers_no_target(made):
    said = words(made)
    assert "**This run was on a CPU**" in said
    assert "| met |" not in said
    assert "missed" not in said
    assert said.count("| not run |") >= 5
    assert "a CUDA graph needs a CUDA device: `check/CUDA graph`" in said
    assert "**differs**" not in said
    assert "**failed**" not in said
    for key, _ in cases(SMALL):
        if key.startswith("check/"):
            assert f"| {key.removeprefix('check/')} |" in said


def test_every_part_has_figures(made):
    results = json.loads((made / "results.json").read_text())["results"]
    assert set(results) == {key for key, _ in cases(SMALL)}
    raced = results["select/1 x (24, 16, 3)"]
    assert {PUBLISHED, EXACT, "transport", "divprune"} <= set(raced["seconds"])
    assert "needs a CUDA device" in raced["left out"][EXACT_GRAPH]
    whole = results["model/tiny LLaVA, 64 tokens/sdpa/batch 1/1.0"]
    pruned = results["model/tiny LLaVA, 64 tokens/sdpa/batch 1/0.098"]
    assert whole["visual tokens"] is None
    assert pruned["visual tokens"] == OTPrune(LEAST).count(64)
    assert results["model/tiny LLaVA, 64 tokens/sdpa/batch 2/0.5"]["visual tokens"] == 64
    assert set(pruned) >= {"first", "behind", "selection", "decode"}
    assert results["kernel/exact/1 x (24, 16, 3)"]["launches"] > 0
    assert results["check/model/embedded"]["ways"]["pruned, mass token"]["same answers"]


def test_a_finished_run_is_not_run_again(made, monkeypatch):
    before = (made / "cases.jsonl").read_text()
    monkeypatch.setattr(
        "otprune_bench.gpu.speeds._raced", lambda *words: pytest.fail("it was there already")
    )
    run(made, replace(SMALL, parts=("kernel",)))
    assert (made / "cases.jsonl").read_text() == before
    assert "### 1 x (24, 16, 3)" in words(made)  # what other parts found stays in the report


def test_a_part_alone_and_no_time_at_all(tmp_path):
    run(tmp_path, replace(SMALL, parts=("select",), minutes=0.0))
    said = words(tmp_path)
    assert "not asked for: --part select: `check/goldens`" in said
    assert "### Frames" in said
    other = tmp_path / "late"
    run(other, replace(SMALL, minutes=0.01))
    assert "not started: expected to take 3.0 s, 0.0 s left: `card`" in words(other)
    assert len((other / "cases.jsonl").read_text().splitlines()) == 1


def test_no_case_starts_that_would_end_too_late(tmp_path):
    now, ran = [0.0], []

    def case(key, seconds):
        def work():
            ran.append(key)
            now[0] += seconds
            return {"x": 1}

        return key, work

    todo = [case("a/1", 20.0), case("a/2", 20.0), case("b/1", 30.0), case("a/3", 1.0)]
    expected = {"a/1": 10.0, "a/2": 30.0, "b/1": 30.0, "a/3": 29.0}
    deadline = Deadline(60.0, expected, clock=lambda: now[0])
    took = deadline.took
    deadline.took = lambda key, seconds: took(key, 20.0 if key == "a/1" else 30.0)
    found = run_cases(tmp_path, todo, "test", deadline=deadline)
    # a/1 took twice what was declared, so a/2 would take 60 s; b is another group.
    assert ran == ["a/1", "b/1"]
    assert found["a/2"] == {"skipped": "not started: expected to take 60.0 s, 40.0 s left"}
    assert "a/2" not in (tmp_path / "cases.jsonl").read_text()
    assert run_cases(tmp_path, todo[:2], "test")["a/2"] == {"x": 1}


def test_a_device_that_failed_ends_the_run_and_what_failed_comes_last(tmp_path, monkeypatch):
    def fails(*words):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    only = replace(SMALL, parts=("select",))
    with monkeypatch.context() as patch:
        patch.setattr("otprune_bench.gpu.speeds._raced", fails)
        run(tmp_path, only)
    said = words(tmp_path)
    assert "CUDA error: an illegal memory access" in said
    assert "the device failed in select/1 x (24, 16, 3)" in said
    run(tmp_path, only)
    *_, before, last = (json.loads(x) for x in (tmp_path / "cases.jsonl").read_text().splitlines())
    assert (before["case"], last["case"]) == ("select/frames", "select/1 x (24, 16, 3)")
    assert "failed" not in last["result"]


def test_a_device_that_is_too_small_leaves_cases_out(tmp_path, monkeypatch):
    def fails(*words):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr("otprune_bench.gpu.speeds._raced", fails)
    run(tmp_path, replace(SMALL, parts=("select",)))
    said = words(tmp_path)
    assert "- not enough memory on this device: CUDA out of memory" in said
    assert "### Frames" in said
    assert "## Failed" not in said


def test_all_cases_are_expected_to_end_in_twelve_minutes():
    table = expected_seconds(FULL)
    assert set(table) == {key for key, _ in cases(FULL)}
    assert {part_of(key) for key in table} == {"card", "check", "select", "model", "kernel"}
    assert min(table.values()) > 0
    assert sum(table.values()) < 60 * FULL.minutes - 10
    said = report.dry_run(FULL, table)
    assert "counted and not measured" in said
    assert f"{sum(table.values()):.0f} s of 720 s" in said


# Two equal tokens: which of them is kept is a matter of rounding, and worth the same.
TIED = torch.cat([torch.eye(5, 6), torch.eye(5, 6)[1:2], torch.full((1, 6), 0.3)])[None]


@pytest.mark.parametrize("method", [OTPrune, DPPPrune])
def test_a_tie_is_shown_with_both_objectives(method):
    expected, found = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 5]])
    tied = compare(method(3), TIED, Cues(), expected, found, "float16,")
    assert tied["agrees"]
    assert (tied["sets"], tied["equal"]) == (1, 0)
    (tie,) = tied["ties"]
    assert (tie["only expected"], tie["only found"]) == ([1], [5])
    assert tie["expected value"] == pytest.approx(tie["found value"], rel=1e-12)
    assert report._tie(tie).startswith("float16, set 0: near tie; [1] became [5], objective ")
    worse = compare(method(3), TIED, Cues(), expected, torch.tensor([[1, 2, 5]]))
    assert not worse["agrees"]
    assert "**another choice**" in report._tie(worse["ties"][0])
    positions = compare(checks.selectors(3)["grid"], TIED, Cues(), expected, found)
    assert not positions["agrees"]


@pytest.mark.parametrize("name", [n for n in checks.selectors(4) if n not in ("random", "grid")])
def test_objectives_prefer_what_the_method_keeps(name):
    """Above the mean of random sets: the formula is the one that the search follows."""
    selector = checks.selectors(4)[name]
    tokens = checks._tokens(SMALL)[:1]
    cues = checks.cues_for(selector, tokens, 0)
    kept = selector.select(tokens, cues=cues)[0]
    known = cues.checked(tokens).each(torch.Tensor.double)
    g = torch.Generator().manual_seed(1)
    drawn = [torch.randperm(20, generator=g)[:4].sort().values for _ in range(20)]
    own, *others = (value(selector, tokens[0].double(), x, known) for x in (kept, *drawn))
    sign = -1 if name == "herding" else 1
    assert sign * own > sign * sum(others) / len(others)


def replayed(function):
    """In the place of a CUDA graph: what replays calls the function again."""
    result = function().clone()
    return lambda: result.copy_(function()), result


@pytest.fixture
def card(monkeypatch):
    """Stand-ins for what a CUDA device is needed for."""
    monkeypatch.setattr(checks, "_on_gpu", lambda plan, what: None)
    monkeypatch.setattr(checks, "captured", replayed)
    monkeypatch.setattr(checks, "syncs", lambda mode: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(families, "flash_attention", lambda plan: None)
    monkeypatch.setattr(families, "FLASH", "eager")


def test_checks_of_a_card_with_stand_ins(card, monkeypatch):
    found = checks._graphs(SMALL)
    assert (found["agrees"], found["ties"]) == (True, [])
    assert found["sets"] == 4 * len(checks.on_device(4))
    assert checks._waits(SMALL)["waited"] == []
    assert families._flash(SMALL)["agrees"]
    # A graph that keeps its first result, and one that cannot be captured.
    monkeypatch.setattr(checks, "captured", lambda function: (lambda: None, function()))
    assert not checks._graphs(SMALL)["agrees"]
    monkeypatch.setattr(checks, "captured", lambda function: 1 / 0)
    failed = checks._graphs(SMALL)["failed to capture"]
    assert failed[0] == "otprune: ZeroDivisionError: division by zero"


def test_compiled_kernels_are_found_in_tritons_caches():
    binary = SimpleNamespace(metadata=SimpleNamespace(shared=1), asm={})
    caches = {0: ({"key": binary}, {"key": "name"}, SimpleNamespace(arch=90), None)}
    assert list(kernels._binaries(caches)) == [binary]
    assert list(kernels._binaries({})) == []


def test_goldens_are_remade_as_the_tests_do():
    for case in CASES[:3]:
        assert checks.golden_tokens(case).equal(torch.from_numpy(remake(case)))


TARGETS = {
    "select/1 x (2340, 4096, 229)": {"seconds": {PUBLISHED: [1.0, 2.0, 3.0], EXACT: [0.5]}},
    "select/1 x (576, 4096, 56)": {"seconds": {EXACT: [2e-3], EXACT_GRAPH: [8e-4]}},
    "model/Qwen2.5-VL-7B, 4000 tokens/sdpa/batch 1/1.0": {
        "first": [3.0],
        "behind": [2.0],
        "selection": [0.0],
    },
    "model/Qwen2.5-VL-7B, 4000 tokens/sdpa/batch 1/0.098": {
        "first": [1.0],
        "behind": [0.51],
        "selection": [0.01],
    },
    f"model/Qwen2.5-VL-7B, 4000 tokens/sdpa/batch 1/{STAGED}": {"skipped": "no time"},
}


def test_targets_are_met_missed_or_not_run():
    rows = [one.row() for one in targets(FULL, TARGETS)]
    assert rows[0][2:] == ("0.25", EXACT, "**missed**")
    assert rows[1][2:] == ("0.8", EXACT_GRAPH, "met")
    by_name = {name: row for name, *row in rows}
    share = by_name["selection, of the prefill it saves, Qwen2.5-VL-7B at 4000 tokens"]
    assert share == ["at most 0.02", "0.00667", "sdpa", "met"]
    assert by_name["time to first token, Qwen2.5-VL-7B at 4000 tokens"][1:] == ["3", "sdpa", "met"]
    staged = by_name["time to first token with the encoder stage, Qwen2.5-VL-7B at 4000 tokens"]
    assert staged == ["at least 3.5x", "-", "", "not run"]
    assert len(rows) == 7
    assert Target("x", 1.0, True, 0.5, "").row(real=False) == ("x", "at most 1", "-", "", "not run")


def test_kernels_and_the_time_between_them():
    spans = [(0.0, 2.0, "a"), (1.0, 3.0, "b"), (7.0, 8.0, "a")]
    found = kernels.busy(spans)
    assert found["launches"] == 3
    assert found["seconds in kernels"] == pytest.approx(4e-6)
    assert found["seconds between"] == pytest.approx(4e-6)
    assert found["kernels"][0] == {"name": "a", "launches": 2, "seconds": pytest.approx(3e-6)}
    with pytest.raises(SkipError, match="CUPTI"):
        kernels.busy([])


def test_occupancy():
    h100 = {"threads": 2048, "registers": 65536, "shared": 233472}
    found = kernels.occupancy({"registers": 128, "shared": 1024, "warps": 8}, h100)
    assert (found["programs on a multiprocessor"], found["occupancy"]) == (2, 0.25)
    assert found["limited by"] == "registers"


def test_a_model_made_on_its_device_is_the_model():
    """Rotary frequencies are computed, weights are those of the same fill, logits are finite."""
    from transformers import AutoModelForImageTextToText

    from otprune_bench.timing.shapes import fill

    made = TINY_QWEN.build(torch.float32, "cpu")
    usual = AutoModelForImageTextToText.from_config(TINY_QWEN.full(), dtype=torch.float32).eval()
    fill(usual)
    inputs = TINY_QWEN.inputs(0, torch.float32, batch=2)
    with torch.no_grad():
        logits = made(**inputs).logits
        assert logits.isfinite().all()
        assert logits.equal(usual(**inputs).logits)
        rest = {name: x for name, x in inputs.items() if name != "pixel_values"}
        from otprune.engines.transformers.encoded import encode_call

        outputs = encode_call(made, inputs).outputs
        assert made(**rest, mm_encoder_outputs=outputs).logits.equal(logits)
    assert dict(made.named_buffers()).keys() == dict(usual.named_buffers()).keys()


def test_the_shape_of_qwen_has_as_many_parameters_as_published():
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(QWEN_4000.full(), dtype=torch.bfloat16)
    assert sum(x.numel() for x in model.parameters()) == 8_292_166_656
    assert QWEN_4000.visual == 4000
    assert QWEN_4000.pixels == (16000, 1176)


def test_mass_as_features_of_torchs_own_flash_kernel():
    assert families._features(SMALL)["agrees"]


def test_refusals(tmp_path, capsys, monkeypatch):
    with pytest.raises(OTPruneError, match="expected one of check, select, model, kernel"):
        replace(FULL, parts=("speed",))
    with pytest.raises(OTPruneError, match="expected cuda or cpu"):
        replace(FULL, device="tpu")
    with pytest.raises(OTPruneError, match="needs --quick"):
        replace(FULL, device="cpu").placed()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path)]) == 1
    assert "sees no CUDA device" in capsys.readouterr().err
    assert main(["--dry-run", "--quick"]) == 0
    assert "| all |" in capsys.readouterr().out


BARE = """
import sys
for name in "rich typer matplotlib transformers PIL ot hypothesis".split(): sys.modules[name] = None
from otprune_bench.gpu.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_checkout_and_torch_are_enough(tmp_path):
    options = ["--part", "select", "--device", "cpu", "--quick", "--out", str(tmp_path)]
    paths = os.pathsep.join(str(ROOT / name) for name in ("src", "bench", "training"))
    done = subprocess.run(
        [sys.executable, "-c", BARE, *options],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    said = words(tmp_path)
    assert "No plots: plots need matplotlib" in said
    assert "Not installed: transformers, flash_attn" in said
    assert "| sketched |" in said
