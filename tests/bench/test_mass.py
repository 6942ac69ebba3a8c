"""The bench of attention mass end to end on a few images, and its arithmetic."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from otprune import DivPrune
from otprune.demo import MODEL_DIR
from otprune.demo.words import WORDS
from otprune.errors import OTPruneError
from otprune_bench.embedded import scoring, tasks
from otprune_bench.embedded.evaluation import EMBEDDED
from otprune_bench.embedded.tasks import SPLITS
from otprune_bench.figures.statistics import bits
from otprune_bench.mass.cases import Evaluation, cases
from otprune_bench.mass.plan import FORMS, QUICK, WEIGHINGS, Plan, key
from otprune_bench.mass.run import run
from otprune_bench.methods import NAMES

PLAN = replace(QUICK, images=3, models=(("again", str(MODEL_DIR)),))


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return Evaluation(PLAN, tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mass")
    run(folder, replace(PLAN, images=2, models=(), keeps=(0.098, 0.05), before=(0, 4)), folder)
    return folder


def test_a_run_has_every_setting(ran):
    results = json.loads((ran / "results.json").read_text())["results"]
    alone = results[key(EMBEDDED, 0, "divprune", 0.05)]
    assert set(alone) == {f"{form}, {w}" for form in FORMS for w in WEIGHINGS}
    later = results[key(EMBEDDED, 4, "divprune", 0.05)]
    assert set(later) == {f"{form}, {w}" for form in FORMS for w in ("none", "total", "token")}


def test_another_checkpoint_is_another_model(evaluation):
    made = [
        evaluation.pruned(model, 0, 7, lambda keep, p: DivPrune(keep), ("none", "token"))
        for model in (EMBEDDED, "again")
    ]
    assert made[0] == made[1]  # the same weights under another name
    methods = len(NAMES)
    assert len({case for case, _ in cases(evaluation)}) == 2 * (3 + methods * (4 + 2 + 2))


def test_the_report_shows_its_plots(ran):
    report = (ran / "report.md").read_text()
    for name in ("keeps", "lengths"):
        assert f"({name}.png)" in report
        assert (ran / f"{name}.png").stat().st_size > 10_000
    assert "goal 97" in report
    assert "goal 93" in report


def test_without_a_mass_answers_are_those_of_the_quality_bench(evaluation):
    model, tokens = evaluation.model(EMBEDDED)
    made = evaluation.pruned(EMBEDDED, 0, 14, lambda keep, p: DivPrune(keep), ("none",))
    kept = DivPrune(14).reduce(tokens)
    packed = scoring.pack([task.questions for task in evaluation.tasks])
    plain = scoring.score(model, packed, kept.features, kept.indices, 144, "preserved")
    expected = "".join(map(str, (plain.answers == packed.answer).int().tolist()))
    assert made["as kept"]["none"]["right"] == expected


def test_keeping_everything_has_no_mass_to_add(evaluation):
    everything = evaluation.pruned(
        EMBEDDED, 0, 1.0, lambda keep, p: DivPrune(keep), tuple(WEIGHINGS)
    )
    full = evaluation.unpruned(EMBEDDED, 0)["as kept"]["none"]
    for found in everything["as kept"].values():
        assert found["right"] == full["right"]
        assert found["loss"] == pytest.approx(full["loss"], abs=0.01)


def test_shuffling_moves_masses_and_nothing_else(evaluation):
    masses = DivPrune(7).reduce(evaluation.model(EMBEDDED)[1]).masses
    own, moved = (
        evaluation._bias(WEIGHINGS[name], masses, 144) for name in ("token", "token, shuffled")
    )
    assert torch.equal(own.sort().values, moved.sort().values)
    assert (own != moved).any(dim=1).all()
    assert torch.equal(moved, evaluation._bias(WEIGHINGS["token, shuffled"], masses, 144))


def test_splits_share_no_image(tmp_path):
    first, second = (
        Evaluation(replace(QUICK, images=3, split=split), tmp_path) for split in SPLITS
    )
    images = [{task.image.tobytes() for task in w.tasks} for w in (first, second)]
    assert not images[0] & images[1]


def test_unrelated_questions_tell_nothing(evaluation):
    for task in evaluation.tasks:
        said = tasks.unrelated_questions(task, 24, 0)
        assert len(said.split()) == 24 * 8
        assert set(said.split()) <= {*WORDS, "<eos>"}
        named = set(re.findall(r"is there an? (\w+ \w+) \? no <eos>", said))
        assert not named & {sticker.name for sticker in task.scene.stickers}
        for question in task.questions:
            assert not any(name in question.text for name in named)
    assert tasks.unrelated_questions(evaluation.tasks[0], 0, 0) == ""


def test_what_was_said_stands_before_every_question(evaluation):
    said = ["is there a red ring ? no <eos>", "", "is there a red ring ? no <eos>"]
    asked = [task.questions for task in evaluation.tasks]
    packed, bare = scoring.pack(asked, said), scoring.pack(asked)
    for p, before in enumerate(said):
        words = len(before.split())
        assert (packed.block[p, :words] == 0).all()
        here, there = packed.row == p, bare.row == p
        assert (packed.end[here] == bare.end[there] + words).all()
        first = packed.block[p] == 1
        assert packed.offset[p][first][0] == words


def test_bad_settings_are_refused():
    with pytest.raises(OTPruneError, match="expected validation or test"):
        Plan(split="training")


def test_bits_are_read_back():
    assert np.array_equal(bits("0110"), [0.0, 1.0, 1.0, 0.0])
