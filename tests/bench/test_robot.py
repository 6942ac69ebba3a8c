"""The robot bench measures what it says."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from otprune.errors import MissingDependencyError
from otprune_bench.robot import clips, episodes, plan, sources
from otprune_bench.robot.choices import Choice, equal
from otprune_bench.robot.plan import ARM, OBJECT, QUICK, key
from otprune_bench.robot.run import run
from otprune_bench.robot.scores import known_looks, score, whereabouts
from otprune_bench.robot.sources import Event, Source, first_move, in_patches, patch_owners
from tests.random_tokens import random_tokens

TINY = replace(QUICK, shots=1, length=4, tokens=(40,))


def clip(t=10, m=16, d=24):
    """A still scene with noise; an arm of two tokens moves over it, one place a frame."""
    scene, arm = random_tokens(m, d), random_tokens(2, d, seed=1)
    tokens = scene.repeat(t, 1, 1)
    owner = np.zeros((t, m), int)
    for i in range(t):
        tokens[i, i : i + 2] = arm
        owner[i, i : i + 2] = ARM
    tokens += 0.02 * random_tokens(t, m, d, seed=2)
    owner[:, m - 1] = OBJECT
    return Source(tokens, tokens, owner, (Event(6, owner[6:] == OBJECT),), [0.1] * t)


# -- sources ---------------------------------------------------------------------------------------


def test_a_patch_is_cut_from_its_place():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    cut = in_patches(images, 4)
    assert cut.shape == (2, 16, 12)
    assert np.array_equal(cut[1, 6], images[1, 2:4, 4:6].ravel())


def test_a_patch_belongs_to_what_covers_most_of_it_and_an_eighth():
    labels = np.zeros((1, 8, 8), np.uint8)
    labels[0, :4, :4].flat[:2] = ARM  # an eighth
    labels[0, :4, 4] = [ARM, OBJECT, OBJECT, 0]
    labels[0, 4, :4] = [ARM, 0, 0, 0]  # too little
    assert patch_owners(labels, 2).tolist() == [[ARM, OBJECT, 0, 0]]


def test_the_first_move_is_away_from_the_start():
    owner = np.array([[0, OBJECT], [0, OBJECT], [OBJECT, 0]])
    (event,) = first_move(owner, np.array([0.0, 0.004, 0.02]))
    assert event.frame == 2
    assert event.patches.tolist() == [[True, False]]
    assert first_move(owner, np.zeros(3)) == ()


def test_stickers_come_in_where_their_patches_say():
    source = sources.made(replace(QUICK, shots=2, length=3))
    assert source.tokens.shape[:2] == source.patches.shape[:2] == (6, 144)
    assert {event.frame for event in source.events} >= {0, 3}  # all that a cut brings
    for event in source.events:
        assert len(event.patches) == 3 - event.frame % 3
        assert (source.owner[event.frame][event.patches[0]] == OBJECT).all()


# -- episodes --------------------------------------------------------------------------------------


def test_the_arm_is_what_hangs_on_its_first_joint_and_the_object_what_else_can_move():
    names = ["world", "base", "right_l0", "hand", "case", "drawer", "mocap"]
    model = SimpleNamespace(
        nbody=7,
        body_parentid=np.array([0, 0, 1, 2, 0, 4, 0]),
        body_weldid=np.array([0, 0, 2, 3, 0, 5, 6]),
        body_mocapid=np.array([-1] * 6 + [0]),
        geom_bodyid=np.array([0, 1, 2, 3, 3, 4, 5, 6]),
        body=lambda name: SimpleNamespace(id=names.index(name)),
    )
    label, things = episodes.owners(model)
    assert label.tolist() == [0, 0, ARM, ARM, ARM, 0, OBJECT, 0]
    assert things.tolist() == [6]


def test_without_a_simulator_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(MissingDependencyError, match=r"pip install './bench\[robot\]'"):
        episodes.make(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_clip_is_squeezed(tmp_path):
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (64, 20), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    read = clips.read(tmp_path, 2)
    assert read.shape == (2, plan.SIZE, plan.SIZE, 3)
    assert read[:, 0, 0, 0].tolist() == [0, 40]


# -- choices and scores ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", plan.METHODS)
def test_every_method_keeps_as_many_tokens(name):
    # A frame of VidCom2 gets a whole number; a stream keeps no copies, so it cannot keep more.
    tokens = 2.3 if name == plan.LOW else 4
    assert equal(name, clip(), tokens).mean == pytest.approx(tokens, abs=0.3)


def test_evs_and_dtd_are_one_rule():
    a, b = (equal(name, clip(), 5).kept for name in (plan.DTD, plan.EVS))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_scores_by_hand():
    source = clip(t=8)
    whole = Choice([torch.arange(16)] + [torch.tensor([15])] * 7, [0.002] * 8, 1.0)
    found = score(source, whole, every=2)
    assert found["tokens"] == (16 + 7) / 8
    assert found["object"] == 8 / 23
    assert found["arm"] == 2 / 23
    assert found["object_covered"] == 1
    assert found["arm_covered"] == 1 / 8
    assert (found["seen"], found["lag"]) == (1, 0)
    assert found["milliseconds"] == 2
    # The arm's look was kept in the first frame, and its place was not.
    assert found["look_arm"] < 0.05 < 0.5 < found["place_arm"]
    assert found["place_object"] == 0
    everything = score(source, Choice([torch.arange(16)] * 8, [0.0] * 8, 1.0), every=2)
    errors = [everything[k] for k in ("place", "look", "free_mass_w2")]
    assert errors == pytest.approx([0] * 3, abs=1e-4)
    late = Choice([torch.arange(15)] * 7 + [torch.arange(16)], [0.0] * 8, 1.0)
    assert (score(source, late, 2)["seen"], score(source, late, 2)["lag"]) == (0, 1)
    never = Choice([torch.arange(15)] * 8, [0.0] * 8, 1.0)
    assert score(source, never, 2)["lag"] == 2  # the frames from the event on


def test_what_is_not_known_is_not_scored():
    source = clip()
    bare = Source(source.tokens, source.patches, encoder=[0.1])
    found = score(bare, Choice([torch.arange(16)] * 10, [0.0] * 10, 1.0), 2)
    assert {k for k, v in found.items() if v is None} == {
        *("arm", "arm_covered", "object", "object_covered", "seen", "lag"),
        *("place_arm", "place_object", "look_arm", "look_object"),
    }
    assert known_looks(bare, [torch.arange(16)] * 10, 2) is None


def test_an_arm_that_moved_on_looks_as_it_did():
    said = known_looks(clip(), [torch.arange(16)] * 10, 3)
    assert said["below"] == 1
    assert said["tokens"] == 2 * 3  # of frames 3, 6 and 9


def test_whereabouts_of_the_arm():
    source, each = clip(t=3), torch.arange(16)
    never = [each] + [torch.arange(0)] * 2
    # The arm goes from places 0 and 1 to 1 and 2, then 2 and 3.
    assert whereabouts(source, never) == {"arm": 0, "missed": 3 / 6, "ghosts": 3 / 3}
    repaired = [each, torch.tensor([0, 2]), torch.tensor([1, 3])]
    assert whereabouts(source, repaired) == {"arm": 0.5, "missed": 0, "ghosts": 0}


# -- the whole bench -------------------------------------------------------------------------------


class Mean:
    """An encoder of colours: means of patches."""

    def tokens(self, image):
        return torch.from_numpy(in_patches(np.asarray(image)[None], 16)[0].copy()).float()[:, :40]


def test_a_run_with_what_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "_encoder", Mean)
    rng = np.random.default_rng(0)
    t, data = 4, tmp_path / "data"
    data.mkdir()
    frames = np.repeat(rng.integers(0, 256, (1, 224, 224, 3), np.uint8), t, 0)
    labels = np.zeros((t, 224, 224), np.uint8)
    for i in range(t):
        frames[i, :56, 28 * i : 28 * i + 56] = rng.integers(0, 256, 3)
        labels[i, :56, 28 * i : 28 * i + 56] = ARM
    labels[:, 200:, 200:] = OBJECT
    moved = 0.01 * np.arange(t)
    np.savez(data / f"{plan.PICTURE}.npz", frames=frames, labels=labels, moved=moved)
    np.savez(data / "bikes.npz", frames=frames)
    tiny = replace(
        TINY, episodes=(plan.PICTURE, "reach-v3"), clips=("bikes",), tokens=(plan.RATE,), every=2
    )
    run(tmp_path / "out", tiny, data)
    assert "reach-v3 is left out" in capsys.readouterr().err
    figures = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert set(figures) == {plan.MADE, key("episodes", 0), key("episodes", 2), "bikes"}
    noisy = figures[key("episodes", 2)]
    assert set(noisy[plan.OWN]) == set(plan.AS_OWN)
    assert "arm" in noisy["16"][plan.DTD]
    assert "arm" not in figures["bikes"]["16"][plan.DTD]
    assert plan.OWN not in figures[key("episodes", 0)]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Left out, since its file was not there: reach-v3, noise 0, reach-v3, noise 2" in report
    assert "## Why an arm that moves" in report
    assert "| fixed camera | " in report[report.index("## Tokens on the arm") :]
    pictures = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"errors", "frames", "kept"}


def test_quick_takes_no_data(refused, tmp_path):
    assert "no meaning with --quick" in refused("bench", "robot", "--quick", "--data", tmp_path)
