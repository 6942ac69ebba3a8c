"""The preset is a set of arguments of `otprune.prune`."""

import inspect

import pytest

import otprune
from otprune.errors import KeepError


def test_it_is_what_prune_takes() -> None:
    preset = otprune.recommended(0.2)
    assert preset["selector"].count(100) == 20
    assert set(preset) <= set(inspect.signature(otprune.prune).parameters)


def test_keep_is_checked() -> None:
    with pytest.raises(KeepError, match="more than everything"):
        otprune.recommended(2.0)
