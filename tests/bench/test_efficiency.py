"""The efficiency bench measures what it says."""

import json
from contextlib import contextmanager

import pytest
import torch

from otprune import EncoderStage
from otprune.flops import kv_cache_bytes, prefill_flops
from otprune.selectors import OTPrune
from otprune_bench.efficiency import cases as efficiency
from otprune_bench.efficiency.plan import QUICK
from otprune_bench.efficiency.run import run
from otprune_bench.efficiency.summary import published
from otprune_bench.timing import measure
from otprune_bench.timing.memory import peak_bytes
from otprune_bench.timing.shapes import LLAVA, ONEVISION, TINY


@pytest.fixture(scope="module")
def tiny():
    model = TINY.build()
    return model, measure.encode(model, TINY.inputs(0))


def test_published_tflops_come_out_of_the_formula():
    for one in published().values():
        assert one["formula"] == pytest.approx(one["published"], abs=5e-4)


@pytest.mark.parametrize("n", [621, 101])
def test_counted_operations_of_the_7b_shape(n):
    """A multiplication and an addition are two, and the MLP has three matrices."""
    third = 32 * n * 4096 * 11008
    assert measure.MetaModel(LLAVA).prefill(n) == 2 * (prefill_flops(32, 4096, 11008, n) + third)


def test_counting_on_a_meta_model_is_counting_on_a_real_one(tiny):
    model, encoded = tiny
    model.set_attn_implementation("eager")
    try:
        real = measure.flops(lambda: measure.generate(model, encoded, None, 1))
    finally:
        model.set_attn_implementation("sdpa")
    head = 2 * 64 * 128
    n = TINY.visual + TINY.text
    all_layers = measure.MetaModel(TINY).prefill(n)
    assert real - head == all_layers * TINY.layers / TINY.all_layers


def test_a_call_is_timed_token_by_token(tiny):
    model, encoded = tiny
    whole = measure.generate(model, encoded, None, 3)
    pruned = measure.generate(model, encoded, OTPrune(0.25), 3)
    assert whole.prompt == 64 + 12
    assert pruned.prompt == 16 + 12
    for timed in (whole, pruned):
        assert len(timed.tokens) == 3
        assert timed.tokens == sorted(timed.tokens)
        # the last token is never read
        assert timed.cache_bytes == kv_cache_bytes(2, 2, 16, timed.prompt + 2, 2)
    assert whole.selector == 0
    assert 0 < pruned.selector < pruned.tokens[0]


def test_encoded_calls_are_the_same_calls(tiny):
    model, encoded = tiny
    words = TINY.inputs(0)
    assert torch.equal(
        model.generate(**encoded, max_new_tokens=4), model.generate(**words, max_new_tokens=4)
    )


@pytest.mark.parametrize(("shape", "billions"), [(LLAVA, 7.06), (ONEVISION, 0.89)])
def test_shapes_have_the_sizes_of_their_models(shape, billions):
    meta = measure.MetaModel(shape)._model
    assert sum(x.numel() for x in meta.parameters()) / 1e9 == pytest.approx(billions, abs=0.006)
    with torch.device("meta"):
        features = meta.model.get_image_features(
            torch.empty(shape.pixels, dtype=torch.bfloat16), **shape.arguments
        ).pooler_output
    assert sum(x.reshape(-1, shape.width).shape[0] for x in features) == shape.visual


def test_peak_memory():
    there_before = torch.zeros(1000)

    def call():
        a = there_before + 1  # 4000 bytes
        b = a * 2  # 8000
        del a
        c = b.view(10, 100)[1:]  # no more
        del b
        d = torch.zeros(500)  # 6000
        del c, d
        return torch.zeros(1500)  # 6000

    assert peak_bytes(call) == 8000


def test_peak_memory_of_a_pruned_call_is_lower_where_the_prompt_is_long():
    model = TINY.build()
    inputs = measure.encode(model, TINY.inputs(0))
    whole, pruned = (
        peak_bytes(lambda s=s: measure.generate(model, inputs, s, 1)) for s in (None, OTPrune(0.1))
    )
    assert 0 < pruned < whole


def test_a_call_with_a_selection_inside_the_encoder(tiny):
    model, _ = tiny
    stage = EncoderStage(0.5, after=1)
    timed = measure.generate(model, TINY.inputs(0), OTPrune(0.25), 3, stage=stage)
    usual = measure.generate(model, TINY.inputs(0), OTPrune(0.25), 3)
    assert timed.prompt == usual.prompt == 16 + 12
    assert 0 < timed.inside < timed.tokens[0]
    assert usual.inside == 0


def test_the_encoder_is_timed_without_gradients(tiny):
    """As generate() runs it: kept activations would cost time and memory."""
    model, _ = tiny
    seen = []
    hook = model.model.vision_tower.register_forward_hook(
        lambda *_: seen.append(torch.is_grad_enabled())
    )
    try:
        seconds, inside = measure.encode_staged(model, TINY.inputs(0), EncoderStage(0.5, after=1))
        _, nothing = measure.encode_staged(model, TINY.inputs(0), None)
        measure.encode(model, TINY.inputs(0))
    finally:
        hook.remove()
    assert seen == [False] * 3
    assert 0 < inside < seconds
    assert nothing == 0


def test_a_stage_of_ones_own(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("otprune_bench.efficiency.run.run", lambda _, plan: asked.append(plan))
    words = ("bench", "efficiency", "--quick", "--out", tmp_path, "--encoder-keep", "0.5")
    assert run(*words).status == 0
    assert run(*words, "--encoder-after", "1").status == 0
    assert [plan.stages for plan in asked] == [(EncoderStage(0.5),), (EncoderStage(0.5, after=1),)]
    assert "keep 0.5 after 1" in asked[1].settings()["encoder"]
    assert run(*words, "--rounds", "5").status == 0
    assert [plan.repeats for plan in asked] == [QUICK.repeats, QUICK.repeats, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_and_pixels_have_the_dtype(dtype):
    assert TINY.build(dtype).dtype == TINY.inputs(0, dtype)["pixel_values"].dtype == dtype


def test_only_the_encoder_in_another_dtype(run, tmp_path):
    words = ("--quick", "--encoder-only", "--dtype", "float32", "--encoder-keep", "0.5")
    result = run("bench", "efficiency", "--out", tmp_path, *words)
    assert (result.status, result.err) == (0, "")
    figures = json.loads((tmp_path / "results.json").read_text())["results"]
    assert set(figures) == {
        f"tiny LLaVA/{what} {label}"
        for what in ("staged", "memory/encoder")
        for label in ("whole", "keep 0.5 after 0.6")
    }
    one = figures["tiny LLaVA/staged keep 0.5 after 0.6"]
    assert len(one["first_token_seconds"]["runs"]) == len(one["load"]["runs"]) == 2
    report = (tmp_path / "report.md").read_text()
    assert "in float32" in report
    assert "## Operations" not in report
    assert "| keep 0.5 after 0.6 | " in report


def test_wrong_stages_are_refused(refused, tmp_path):
    words = ("bench", "efficiency", "--quick", "--out", tmp_path)
    assert "--encoder-after belongs to --encoder-keep" in refused(*words, "--encoder-after", "1")
    assert "keep=0 would leave no token" in refused(*words, "--encoder-keep", "0")


def test_busy_is_beside_processes_that_spin(monkeypatch):
    """None while the model is built, two during the call."""
    there = []

    @contextmanager
    def noted():
        there.append("spin")
        yield
        there.append("end")

    monkeypatch.setattr(efficiency, "busy_processes", noted)
    monkeypatch.setattr(efficiency, "_generate", lambda *_, **__: there.append("call"))
    efficiency._busy(lambda: there.append("model"), None, 2)
    assert there == ["model", "spin", "call", "end"]


def test_a_method_that_crashes_is_reported(tmp_path, monkeypatch):
    def broken(self, tokens, k, weights):
        raise RuntimeError("no such luck")

    monkeypatch.setattr("otprune.selectors.divprune.DivPrune.pick", broken)
    run(tmp_path, QUICK)
    figures = json.loads((tmp_path / "results.json").read_text())["results"]
    assert "no such luck" in figures["tiny LLaVA/divprune@0.25"]["failed"]
    assert "no such luck" in figures["tokens 144 x 128/divprune@0.5"]["failed"]
    for method in ("otprune", "random"):
        one = figures[f"tiny LLaVA/{method}@0.25"]
        assert one["prompt_tokens"] == 28
        assert len(one["first_token_seconds"]["runs"]) == 2
        assert one["processes"] == 1
    for setting in ("unpruned", "otprune@0.098"):
        both = figures[f"tiny LLaVA/busy/{setting}"]
        assert [len(both[x]["first_token_seconds"]["runs"]) for x in ("quiet", "busy")] == [2, 2]
    staged = [figures[f"tiny LLaVA/staged {label}"] for label in QUICK.encoders]
    assert [one["prompt_tokens"] for one in staged] == [18, 18, 18]
    assert [one["inside_seconds"]["median"] > 0 for one in staged] == [False, True, True]
    assert staged[0]["first_token_share"]["runs"] == [1, 1]
    assert len(staged[1]["inside_share"]["runs"]) == 2
    peaks = [figures[f"tiny LLaVA/memory/encoder {label}"] for label in QUICK.encoders]
    assert all(peak["peak_bytes"] > 0 for peak in peaks)
    report = (tmp_path / "report.md").read_text()
    assert "| keep 0.35 after 0.25 | " in report
    assert "| otprune@0.098 | busy | " in report
    assert "| divprune | 0.5 | failed |" in report
    assert "RuntimeError: no such luck" in report
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "selectors.png",
        "time_tiny-llava.png",
    }
