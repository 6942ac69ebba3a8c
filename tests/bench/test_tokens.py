"""The token bench with an encoder made up here: the real one is not on every machine."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from otprune.bench import tokens
from otprune.bench.summary import NAMES
from otprune.demo.scenes import GRID, owners
from otprune.encoders import vit_s
from otprune.errors import MissingDependencyError

PLAN = replace(tokens.QUICK, crops=2, keeps=(0.25, 0.098))


class Patches:
    """Mean colours of patches, and their squares, as tokens."""

    def tokens(self, picture, size):
        side = size // vit_s.PATCH
        small = np.asarray(picture.resize((side, side)), np.float32) / 255
        flat = torch.from_numpy(small).reshape(side * side, 3)
        return torch.cat([flat, flat.square(), torch.ones(side * side, 1)], 1)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vit_s, "load", Patches)
        tokens.run(folder, PLAN, folder)
    return folder


def test_every_case_is_there(ran):
    results = json.loads((ran / "results.json").read_text())["results"]
    assert set(results) == {f"{n}@{k}, 256 tokens" for n in NAMES for k in PLAN.keeps}
    for key, measures in results.items():
        assert set(measures) == set(tokens.MEASURES)
        assert 0 <= measures["objects"][0] <= 1
        certified = key.startswith(("otprune", "transport"))
        assert (measures["certificate"][0] is not None) == certified
    report = (ran / "report.md").read_text()
    assert "## 256 tokens, keep 0.098" in report
    assert (ran / "tokens.png").stat().st_size > 10_000


def test_without_the_encoder_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="otprune fetch vit-s"):
        tokens.run(tmp_path / "out", PLAN, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("grid", [16, 24, 32])
def test_stickers_are_where_they_are_on_any_grid(tmp_path, grid):
    for scene in tokens.Crops(PLAN, tmp_path).scenes:
        fine, coarse = owners(scene, grid), owners(scene)
        for i, _ in enumerate(scene.stickers):
            # The same middle, in shares of the picture, to within a patch of the coarse grid.
            assert _middle(fine == i, grid) == pytest.approx(_middle(coarse == i, GRID), abs=1 / 12)


def _middle(mask, grid):
    rows, columns = np.nonzero(mask.reshape(grid, grid))
    return np.array([rows.mean() + 0.5, columns.mean() + 0.5]) / grid
