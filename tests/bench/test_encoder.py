"""The bench of the encoder stage: its numbers are those of the engine, and its arithmetic."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model

from otprune import DPPPrune, EncoderStage, TransportPrune, prune
from otprune.encoders import vit_s
from otprune.engines.transformers.tower import staged
from otprune_bench.embedded import scoring
from otprune_bench.encoder import features, times
from otprune_bench.encoder.answers import Evaluation
from otprune_bench.encoder.plan import (
    DEFAULT,
    EMBEDDED,
    EUCLIDEAN,
    FINALS,
    FULL,
    GOALS,
    LAYERS,
    ONE,
    QUICK,
    SPLITS,
    TIMED,
    Stage,
    Timed,
    answers_key,
    behind,
    call_key,
    chooser,
    features_key,
    time_key,
)
from otprune_bench.encoder.run import run
from otprune_bench.encoder.summary import Point, Summary, front
from otprune_bench.methods import NAMES, UNPRUNED
from otprune_training.architecture import WORD_ID

PLAN = replace(QUICK, images=2)


@pytest.fixture(scope="module")
def small():
    """A small encoder in place of the ViT-S/14."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=12, num_attention_heads=2, image_size=224, patch_size=14
    )
    return vit_s.ViTS(Dinov2Model(config).eval())


@pytest.fixture(scope="module")
def ran(tmp_path_factory, small):
    folder = tmp_path_factory.mktemp("encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vit_s, "load", lambda: small)
        run(folder, PLAN, folder)
    return folder


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return Evaluation(PLAN, SPLITS[0], tmp_path_factory.mktemp("none"))


@pytest.mark.parametrize("final", FINALS)
@pytest.mark.parametrize(
    "stage",
    [
        DEFAULT,
        Stage("transport", 0.5, 2, False),
        Stage(EUCLIDEAN, 0.1, 1, True),  # fewer than the language model could get
    ],
)
def test_answers_are_those_of_pruning_the_stock_model(evaluation, stage, final):
    tokens, cells = evaluation.encode(stage, chooser(stage.method, 0))
    right, losses = evaluation.score(final, tokens, cells)
    model, processor = evaluation._model
    inside = EncoderStage(
        selector=chooser(stage.method, 0)(stage.keep, 0), after=stage.after, mass=stage.mass
    )
    expected = []
    for task in evaluation.tasks:
        asked = [f"<image> {question.text}" for question in task.questions]
        inputs = processor(
            images=[task.image] * len(asked), text=asked, padding=True, return_tensors="pt"
        )
        answer = torch.tensor([WORD_ID[question.answer] for question in task.questions])
        with torch.no_grad(), prune(model, **behind(final), encoder=inside):
            logs = model(**inputs).logits[:, -1].log_softmax(-1)
        expected.append((logs.argmax(-1) == answer, -logs.gather(1, answer[:, None])[:, 0]))
    torch.testing.assert_close(losses, torch.cat([x[1] for x in expected]), atol=1e-4, rtol=1e-4)
    assert torch.equal(right, torch.cat([x[0] for x in expected]))


def test_keeping_all_tokens_in_the_encoder_changes_nothing(evaluation):
    model, _ = evaluation._model
    whole = scoring.encode_pixels(model, evaluation._pixels)
    tokens, cells = evaluation.encode(DEFAULT._replace(keep=1.0), chooser("dpp", 0))
    assert torch.equal(tokens, whole)
    one, two = evaluation.score(0.098, whole, None), evaluation.score(0.098, tokens, cells)
    assert torch.equal(one[0], two[0])
    torch.testing.assert_close(one[1], two[1])


def test_random_draws_anew_for_every_image(evaluation):
    stage = Stage("random", 0.25, 3, True)
    _, cells = evaluation.encode(stage, chooser("random", 0))
    assert len(cells) == PLAN.images
    assert not torch.equal(cells[0].kept, cells[1].kept)


def test_work_is_what_the_encoder_multiplies():
    """Counted on a Dinov2Model, whose class token is one token more."""
    config = Dinov2Config(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=4, image_size=56, patch_size=14
    )
    config._attn_implementation = "eager"
    model, pixels = Dinov2Model(config).eval(), torch.zeros(1, 3, 56, 56)
    stage = EncoderStage(5, after=1, mass=False)

    def counted(function, *args):
        with FlopCounterMode(display=False) as made, torch.no_grad():
            function(*args)
        return made.get_total_flops() / 2

    embedding = 16 * 48 * 3 * 14**2
    one = (counted(model, pixels) - embedding) / 4
    with staged(model, stage):
        found = counted(model, pixels) - embedding
    found -= counted(stage.cells, [torch.randn(16, 48)])
    assert Stage("dpp", 6 / 17, 1, False).work(4, 17, 48) == pytest.approx(found / one)


@pytest.mark.parametrize("mass", [True, False])
def test_the_rest_of_an_encoder_gives_what_all_of_it_gives(small, mass):
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    selector = TransportPrune(0.35)
    with torch.no_grad():
        whole = small.model(pixels, output_hidden_states=True).hidden_states
        with staged(small.model, EncoderStage(selector=selector, after=3, mass=mass)) as calls:
            expected = small.model(pixels, output_hidden_states=True).hidden_states[vit_s.LAYER]
        rest = features.Rest(small.model, 3, vit_s.LAYER)
        with staged(rest.model, EncoderStage(selector=selector, after=0, mass=mass)) as again:
            found = rest(whole[3], 224)
        torch.testing.assert_close(rest(whole[3], 224), whole[vit_s.LAYER])
    assert torch.equal(again[0].cells[0].kept, calls[0].cells[0].kept)
    torch.testing.assert_close(found, expected)
    assert (found - whole[vit_s.LAYER]).abs().max() > 1e-3


def test_errors_are_relative_to_the_spread_of_the_same_tokens():
    full = torch.tensor([[9.0], [0.0], [2.0], [4.0]])  # class token, then patches of mean 2
    found = torch.tensor([[9.0], [1.0], [3.0], [0.0]])
    made = features.errors(found, full, torch.tensor([0, 1]))
    assert made["kept"] == pytest.approx((1 + 1) / (4 + 0))
    assert made["all"] == pytest.approx((1 + 1 + 16) / (4 + 0 + 4))
    assert features.errors(full, full, torch.tensor([0, 2])) == {"kept": 0.0, "all": 0.0}


def test_a_timed_call_says_what_encoder_and_selection_took(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(times, "now", lambda: [float(tick := next(clock)), 2.0 * tick])
    call = times.Call(Timed(EMBEDDED, ()), 0)
    stage = times.TimedStage(selector=DPPPrune(0.35), after=2)
    found = call.timed(stage, 0.098)
    # Clock reads in turn: the call, the encoder, the selection; then the ends, inner ones first.
    assert found == {"total": [5.0, 10.0], "encoder": [3.0, 6.0], "selection": [1.0, 2.0]}
    assert call.timed(None, 0.098)["selection"] == [0.0, 0.0]
    assert len(call.tower._forward_hooks) == len(call.tower._forward_pre_hooks) == 0


def test_a_run_has_every_case_and_shows_its_plots(ran):
    results = json.loads((ran / "results.json").read_text())["results"]
    whos = [ONE, *dict(PLAN.answers)[SPLITS[0]]]
    expected = {answers_key(split, who) for split in SPLITS for who in (UNPRUNED, *whos)}
    expected |= {features_key(size, s) for size, stages in PLAN.features for s in stages}
    expected |= {time_key(t, i) for t in PLAN.timed for i in range(1, t.rounds + 1)}
    assert set(results) == expected
    assert not any("failed" in result for result in results.values())
    report = (ran / "report.md").read_text()
    for name in ("time", "features"):
        assert f"({name}.png)" in report
        assert (ran / f"{name}.png").stat().st_size > 10_000
    assert "## Failed" not in report


def summary(changes=None):
    """A summary of made-up answers: `changes` maps (who, final) to wrong answers of ten."""
    plan = replace(QUICK, timed=(), features=())
    tasks = Evaluation(plan, SPLITS[0], None).questions
    wrong = changes or {}
    n = len(tasks.kind)
    results = {}
    for split, stages in plan.answers:
        for who in (UNPRUNED, ONE, *stages):
            results[answers_key(split, who)] = {
                f"{final:g}": {"right": "0" * (k := wrong.get((who, final), 0)) + "1" * (n - k)}
                for final in FINALS
            }
    return Summary(plan, dict.fromkeys(SPLITS, tasks), results), tasks


def test_shares_are_of_the_unpruned_accuracy():
    made, tasks = summary({(UNPRUNED, 1.0): 1, (DEFAULT, 0.098): 2})
    n = len(tasks.kind)
    assert made.retained(SPLITS[0], DEFAULT, 0.098).value == pytest.approx((n - 2) / (n - 1))
    kind, least = made.worst(SPLITS[0], DEFAULT, 0.098)
    assert kind in tasks.kind[:2]
    assert least.value < 1


def test_the_default_is_that_of_the_library():
    stage = EncoderStage(DEFAULT.keep)
    assert stage.method == chooser(DEFAULT.method, 0)(DEFAULT.keep, 0)
    assert (stage.layer(LAYERS), stage.mass) == (DEFAULT.after, DEFAULT.mass)


def test_the_front_is_what_no_other_setting_beats():
    points = [
        Point("a", 1.0, 1.0, 1.0),
        Point("b", 0.1, 0.5, 0.9),
        Point("c", 0.1, 0.6, 0.8),  # slower and worse than b
        Point("d", 0.1, 0.5, 0.7),
        Point("e", 0.1, 1.2, 1.0),  # slower than a, no better
    ]
    assert [point.who for point in front(points)] == ["b", "a"]


def test_the_full_plan_measures_every_method_with_and_without_mass():
    stages = dict(FULL.answers)[SPLITS[1]]
    assert {(s.method, s.mass) for s in stages if s.method != EUCLIDEAN} == {
        (n, mass) for n in NAMES for mass in (0, 1)
    }
    assert DEFAULT in stages
    for _, of_size in FULL.features:
        at = {(s.method, s.keep, s.after, s.mass) for s in of_size}
        for goal in GOALS:
            assert {("transport", goal.keep, goal.after, mass) for mass in (True, False)} <= at


def test_a_stage_of_another_model_has_the_accuracy_of_the_same_share_of_layers():
    timed = next(t for t in TIMED if t.layers and not t.finals)
    every = {call_key(stage, None): times_of(0.5) for stage in timed.stages}
    every[UNPRUNED] = times_of(1.0)
    made, _ = summary({(DEFAULT, 0.098): 3})
    made.results = {
        **made.results,
        **{time_key(timed, i): {"calls": every, "load": 1.0} for i in range(1, timed.rounds + 1)},
    }
    points = {point.who: point for point in made.points(SPLITS[1], timed)}
    same = points[DEFAULT._replace(after=7)]  # 7 of 12 layers, 3 of 5
    expected = made.retained(SPLITS[1], DEFAULT, 0.098).value
    assert (same.time, same.retained) == (0.5, pytest.approx(expected))
    assert points[UNPRUNED] == Point(UNPRUNED, 1.0, 1.0, 1.0)
    for stage in dict(FULL.answers)[SPLITS[1]]:  # every one is in the plot
        after = {round(s.after / timed.layers * 5): s.after for s in timed.stages}[stage.after]
        assert stage._replace(after=after) in timed.stages


def times_of(total):
    return {part: [total, total] for part in ("total", "encoder", "selection")}
