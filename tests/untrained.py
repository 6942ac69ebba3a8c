"""Fixtures of several folders: an untrained model of the embedded one's format, a photograph."""

import numpy as np
import pytest
from PIL import Image

from otprune import demo
from otprune_training.architecture import build
from otprune_training.processor import build_processor


@pytest.fixture(scope="session")
def tiny():
    return build(seed=0).eval(), build_processor()


@pytest.fixture
def embedded(tiny, monkeypatch):
    """Stands in for the embedded model, so that no test waits for its weights or its answers."""
    monkeypatch.setattr(demo, "load", lambda: tiny)


@pytest.fixture(scope="session")
def checkpoint(tiny, tmp_path_factory):
    """The same as a local folder, the way a user has one."""
    folder = tmp_path_factory.mktemp("model")
    for part in tiny:
        part.save_pretrained(folder)
    return folder


def scene(width=120, height=80, seed=0):
    """An image without two equal patches."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    scene().save(path)
    return path
