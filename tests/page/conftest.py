"""Fixtures of this folder: an untrained model, and images of visitors."""

import pytest

from otprune.asking.models import Loaded
from tests.untrained import scene, tiny

__all__ = ["tiny"]


@pytest.fixture(scope="session")
def loaded(tiny):
    """A model of the embedded one's format that any question may be asked."""
    return Loaded("a model", *tiny, embedded=False)


@pytest.fixture
def image():
    return scene()


@pytest.fixture
def upload(tmp_path):
    """`upload("a.png", seed)`: the path of a visitor's image."""

    def make(name="photo.png", seed=0):
        path = tmp_path / name
        scene(seed=seed).save(path)
        return str(path)

    return make
