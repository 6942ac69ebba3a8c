"""The token bench with an encoder made up here: the real one is not on every machine."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from otprune.encoders import vit_s
from otprune.errors import MissingDependencyError
from otprune_bench.embedded import photographs
from otprune_bench.embedded.tasks import noise_images
from otprune_bench.methods import NAMES
from otprune_bench.tokens import cases
from otprune_bench.tokens.plan import MEASURES, QUICK, Plan
from otprune_bench.tokens.run import run
from otprune_training import photos
from otprune_training.scenes import GRID, owners, render

PLAN = replace(QUICK, images=2, keeps=(0.25, 0.098))


class Patches:
    """Mean colours of patches, and their squares, as tokens."""

    def tokens(self, image, size):
        side = size // vit_s.PATCH
        small = np.asarray(image.resize((side, side)), np.float32) / 255
        flat = torch.from_numpy(small).reshape(side * side, 3)
        return torch.cat([flat, flat.square(), torch.ones(side * side, 1)], 1)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vit_s, "load", Patches)
        run(folder, PLAN, folder)
    return folder


def test_every_case_is_there(ran):
    results = json.loads((ran / "results.json").read_text())["results"]
    assert set(results) == {f"{n}@{k}, 256 tokens" for n in NAMES for k in PLAN.keeps}
    for key, measures in results.items():
        assert set(measures) == set(MEASURES)
        assert 0 <= measures["objects"][0] <= 1
        certified = key.startswith(("otprune", "transport"))
        assert (measures["certificate"][0] is not None) == certified
    report = (ran / "report.md").read_text()
    assert "## 256 tokens, keep 0.098" in report
    assert (ran / "tokens.png").stat().st_size > 10_000


def test_without_the_encoder_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="otprune fetch vit-s"):
        run(tmp_path / "out", PLAN, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("grid", [16, 24, 32])
def test_masks_are_where_the_image_has_stickers(tmp_path, grid):
    made = cases.Images(PLAN, tmp_path)
    for i, (scene, image) in enumerate(zip(made.scenes, made.images, strict=True)):
        bare = render(replace(scene, stickers=()), noise_images(i + 1, PLAN.seed)[i:], cases.SCALE)
        changed = (np.asarray(image) != np.asarray(bare)).any(-1)
        side = changed.shape[0] // grid  # 480 pixels: whole patches on every grid
        share = changed.reshape(grid, side, grid, side).mean((1, 3)).ravel()
        own = owners(scene, grid)
        assert set(own) == set(range(-1, len(scene.stickers)))
        # An eighth of a patch makes it the sticker's; the dark edge counts half.
        assert (share[own >= 0] > 0.08).all()
        assert (own[share > 0.7] >= 0).all()
        for k, _ in enumerate(scene.stickers):
            # Each at its own place, to within a patch of the coarser grid.
            fine, coarse = own == k, owners(scene) == k
            assert _middle(fine, grid) == pytest.approx(_middle(coarse, GRID), abs=1 / GRID)


def test_coverage_counts_tokens_and_objects():
    own = np.array([-1, 0, 0, 1, 1, 1, 1, -1], np.int8)

    def shares(*kept):
        found = cases._coverage(own, 2, torch.tensor(kept))
        return found["evidence"], found["objects"]

    assert shares(0, 7) == (0, 0)
    assert shares(0, 1) == pytest.approx((1 / 6, 1 / 2))
    assert shares(3, 4, 5) == pytest.approx((1 / 2, 1 / 2))
    assert shares(2, 6) == pytest.approx((1 / 3, 1))
    assert shares(*range(8)) == (1, 1)


def _middle(mask, grid):
    rows, columns = np.nonzero(mask.reshape(grid, grid))
    return np.array([rows.mean() + 0.5, columns.mean() + 0.5]) / grid


def test_every_photograph_is_below_one_image(tmp_path):
    shades = range(len(photographs.NAMES))
    for shade, name in zip(shades, photographs.NAMES, strict=True):
        Image.new("RGB", (200, 100 + shade), (shade,) * 3).save(tmp_path / f"{name}.png")
    made = cases.Images(Plan(), tmp_path)
    assert len(made.images) == len(photographs.NAMES) >= 40
    assert [scene.box[2] for scene in made.scenes] == [100 + shade for shade in shades]


def test_photographs_of_the_embedded_model_stay_apart():
    demo = {Path(n).stem for n in (*photos.SCIKIT_IMAGE, *photos.SCIKIT_LEARN, *photos.DEBIAN)}
    assert len(demo) == 32
    assert not demo & {Path(name).stem for name in photographs.OPENCV}
    assert len(set(photographs.NAMES)) == len(photographs.NAMES)
    assert {Path(name).stem for name in photographs.LEFT_OUT} == demo - set(photographs.NAMES)
