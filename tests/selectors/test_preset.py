"""The preset is a set of arguments of `otprune.prune`."""

import inspect

import pytest

import otprune
from otprune.errors import KeepError, OTPruneError


def test_it_is_what_prune_takes() -> None:
    preset = otprune.recommended(0.2)
    assert preset["selector"].count(100) == 20
    assert set(preset) <= set(inspect.signature(otprune.prune).parameters)


def test_what_it_is() -> None:
    assert otprune.recommended() == {
        "selector": otprune.SimplexPrune(0.1),
        "merge": True,
        "mass": "token",
        "alpha": 1.0,
        "distance": "auto",
    }


def test_keep_is_checked() -> None:
    with pytest.raises(KeepError, match="more than everything"):
        otprune.recommended(2.0)


def test_with_a_share_for_the_question_it_is_heard() -> None:
    preset = otprune.recommended(0.03, question=0.9)
    assert preset["selector"] == otprune.TransportPrune(0.03, question=0.9)
    assert (preset["merge"], preset["mass"]) == (False, "token")
    assert "question" not in otprune.recommended(0.03)["selector"].needs
    with pytest.raises(OTPruneError, match="expected a share from 0 to 1"):
        otprune.recommended(0.03, question=2)
