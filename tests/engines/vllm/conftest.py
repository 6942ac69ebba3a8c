"""What the tests that start an engine share: the environment, and checkpoints made once."""

import os

import pytest

from .engines import ENVIRONMENT


@pytest.fixture(scope="session")
def environment():
    """Set for good: vLLM reads it when it is imported, and its children inherit it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def checkpoint(environment, tmp_path_factory):
    """`checkpoint(name)`: the saved checkpoint of a family and its `Marks`."""
    from .checkpoints import CHECKPOINTS

    folder, made = tmp_path_factory.mktemp("checkpoints"), {}

    def get(name):
        family = CHECKPOINTS[name]
        if name not in made:
            made[name] = family.save(folder)
        return made[name], (family.image, family.video)

    return get


@pytest.fixture(scope="session")
def reference(checkpoint):
    """`reference(name)`: that checkpoint in transformers, with otprune's engine there."""
    from .reference import Reference

    made = {}

    def get(name):
        if name not in made:
            made[name] = Reference(*checkpoint(name))
        return made[name]

    return get
