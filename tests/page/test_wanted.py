"""A visitor's settings as arguments of the library."""

import pytest

from otprune import EncoderStage
from otprune.errors import KeepError, OTPruneError
from otprune.page.wanted import Wanted, hears, summaries
from otprune.selectors import recommended
from otprune.selectors.registry import METHODS


def test_the_end_of_the_slider_keeps_everything_and_not_one_token():
    wanted = Wanted(keep=1, encoder_keep=1)  # as JSON has 1.0
    assert wanted.pruning()["selector"].count(144) == 144
    assert wanted.stage() is None


@pytest.mark.parametrize("keep", [0, -0.1, 1.5, True, "0.1", None, float("nan")])
def test_no_other_keep_is_taken(keep):
    for name in ("keep", "encoder_keep"):
        with pytest.raises(KeepError, match=name):
            Wanted(**{name: keep})


def test_the_least_keep_keeps_a_token():
    assert Wanted(keep=0.01).pruning()["selector"].count(9) == 1


def test_settings_become_arguments():
    made = Wanted("transport", 0.2, True, "token", 0.5, 0.7)
    how = made.pruning()
    assert (how["merge"], how["mass"], how["alpha"]) == (True, "token", 1.0)
    assert (how["selector"].name, how["selector"].question) == ("transport", 0.7)
    assert made.stage() == EncoderStage(0.5)


def test_the_preset_is_the_preset():
    assert Wanted("recommended", 0.1).pruning() == recommended(0.1)
    assert Wanted("recommended", 0.1, question=0.9).pruning() == recommended(0.1, question=0.9)
    with pytest.raises(OTPruneError, match="recommended settles"):
        Wanted("recommended", mass="token").pruning()


def test_a_comparison_leaves_out_what_a_method_does_not_take():
    wanted = Wanted("transport", 0.2, True, "token", 0.5, 0.7)
    assert wanted.by("recommended") == Wanted("recommended", 0.2, False, "none", 0.5, 0.7)
    assert wanted.by("norm") == Wanted("norm", 0.2, True, "token", 0.5, 0.0)
    for method in summaries():
        wanted.by(method).pruning()


def test_who_hears_the_question():
    able = {method for method in summaries() if hears(method)}
    assert {"transport", "recommended"} < able
    assert not {"norm", "cdpruner"} & able  # a question that is always heard has no share
    assert not hears("no such method")
    assert set(summaries()) == {"recommended", *METHODS}


def test_another_name_is_refused():
    with pytest.raises(OTPruneError, match="did you mean transport"):
        Wanted("transprot").pruning()
    with pytest.raises(OTPruneError, match="not imported"):
        Wanted("os:system").pruning()
