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
from otprune_bench.mass import cases as mass
from otprune_bench.mass import report as mass_report
from otprune_bench.mass.cases import EMBEDDED, QUICK, WEIGHINGS, Plan, World

PLAN = replace(QUICK, images=3, models=(("again", str(MODEL_DIR)),))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(PLAN, tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mass")
    with pytest.MonkeyPatch.context() as patch:
        for module in (mass, mass_report):
            patch.setattr(module, "KEEPS", (0.098, 0.05))
            patch.setattr(module, "SAID", (0, 4))
        mass_report.run(folder, replace(PLAN, images=2, models=()), folder)
    return folder


def test_a_run_has_every_setting(ran):
    results = json.loads((ran / "results.json").read_text())["results"]
    alone = results[mass.key(EMBEDDED, 0, "divprune", 0.05)]
    assert set(alone) == {f"{form}, {w}" for form in mass_report.FORMS for w in WEIGHINGS}
    later = results[mass.key(EMBEDDED, 4, "divprune", 0.05)]
    assert set(later) == {
        f"{form}, {w}" for form in mass_report.FORMS for w in ("none", "total", "token")
    }


def test_another_checkpoint_is_another_model(world):
    made = [
        world.run(model, 0, 7, lambda keep, p: DivPrune(keep), ("none", "token"))
        for model in (EMBEDDED, "again")
    ]
    assert made[0] == made[1]  # the same weights under another name
    assert len({case for case, _ in mass.cases(world)}) == 2 * (3 + 9 * (4 + 2 + 2))


def test_the_report_shows_its_plots(ran):
    report = (ran / "report.md").read_text()
    for name in ("keeps", "lengths"):
        assert f"({name}.png)" in report
        assert (ran / f"{name}.png").stat().st_size > 10_000
    assert "goal 97" in report
    assert "goal 93" in report


def test_without_a_mass_answers_are_those_of_the_quality_bench(world):
    model, tokens = world.seen(EMBEDDED)
    made = world.run(EMBEDDED, 0, 14, lambda keep, p: DivPrune(keep), ("none",))
    kept = DivPrune(14).reduce(tokens)
    sheet = scoring.pack([task.questions for task in world.tasks])
    plain = scoring.score(model, sheet, kept.features, kept.indices, 144, "preserved")
    expected = "".join(map(str, (plain.answers == sheet.answer).int().tolist()))
    assert made["as kept"]["none"]["right"] == expected


def test_keeping_everything_has_no_mass_to_add(world):
    everything = world.run(EMBEDDED, 0, 1.0, lambda keep, p: DivPrune(keep), tuple(WEIGHINGS))
    full = world.unpruned(EMBEDDED, 0)["as kept"]["none"]
    for found in everything["as kept"].values():
        assert found["right"] == full["right"]
        assert found["loss"] == pytest.approx(full["loss"], abs=0.01)


def test_shuffling_moves_masses_and_nothing_else(world):
    masses = DivPrune(7).reduce(world.seen(EMBEDDED)[1]).masses
    own, moved = (
        world._bias(WEIGHINGS[name], masses, 144, 0) for name in ("token", "token, shuffled")
    )
    assert torch.equal(own.sort().values, moved.sort().values)
    assert (own != moved).any(dim=1).all()
    assert torch.equal(moved, world._bias(WEIGHINGS["token, shuffled"], masses, 144, 0))


def test_splits_share_no_image():
    first, second = (World(replace(QUICK, images=3, split=split), None) for split in mass.SPLITS)
    images = [{task.image.tobytes() for task in w.tasks} for w in (first, second)]
    assert not images[0] & images[1]


def test_small_talk_tells_nothing(world):
    for task in world.tasks:
        said = tasks.small_talk(task, 24, 0)
        assert len(said.split()) == 24 * 8
        assert set(said.split()) <= {*WORDS, "<eos>"}
        named = set(re.findall(r"is there an? (\w+ \w+) \? no <eos>", said))
        assert not named & {sticker.name for sticker in task.scene.stickers}
        for question in task.questions:
            assert not any(name in question.text for name in named)
    assert tasks.small_talk(world.tasks[0], 0, 0) == ""


def test_what_was_said_stands_before_every_question(world):
    said = ["is there a red ring ? no <eos>", "", "is there a red ring ? no <eos>"]
    asked = [task.questions for task in world.tasks]
    sheet, bare = scoring.pack(asked, said), scoring.pack(asked)
    for p, before in enumerate(said):
        words = len(before.split())
        assert (sheet.block[p, :words] == 0).all()
        here, there = sheet.row == p, bare.row == p
        assert (sheet.end[here] == bare.end[there] + words).all()
        first = sheet.block[p] == 1
        assert sheet.offset[p][first][0] == words


def test_bad_settings_are_refused():
    with pytest.raises(OTPruneError, match="expected validation or test"):
        Plan(split="training")


def test_bits_are_read_back():
    assert np.array_equal(mass_report._bits("0110"), [0.0, 1.0, 1.0, 0.0])
