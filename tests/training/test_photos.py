"""Collecting photographs: all of them, or nothing that could be taken for them."""

import pytest
from PIL import Image

from otprune.errors import OTPruneError
from otprune_training import photos


def test_a_collection_that_failed_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    def missing(*names: str) -> None:
        raise OTPruneError("it is not installed")

    monkeypatch.setattr(photos, "_package_file", missing)
    for _ in range(2):  # the second time says the same
        with pytest.raises(OTPruneError, match="it is not installed"):
            photos.load(tmp_path / "runs" / "photos", held_out=True)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert not (tmp_path / "runs" / "photos").exists()


def test_what_is_there_is_not_collected_again(tmp_path, monkeypatch) -> None:
    for name in (*photos.SCIKIT_IMAGE, *photos.SCIKIT_LEARN, *photos.DEBIAN):
        Image.new("RGB", (4, 3)).save(tmp_path / f"{name.split('.')[0]}.png")
    monkeypatch.setattr(photos, "collect", None)
    assert len(photos.load(tmp_path, held_out=True)) == len(photos.HELD_OUT)
