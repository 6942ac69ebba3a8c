"""What may be asked for, and what is said to those who ask for something else."""

import pytest

import otprune
from otprune.engines.vllm.settings import (
    Settings,
    engine_settings,
    fingerprint,
    request_settings,
)


def test_a_ratio_alone_is_enough():
    assert engine_settings({"keep": 0.1}) == Settings(keep=0.1)
    assert engine_settings({"keep": 1}).selector().count(100) == 1
    assert engine_settings({"keep": 1.0}).selector().count(100) == 100


@pytest.mark.parametrize("method", sorted(otprune.METHODS))
def test_every_method_can_be_named(method):
    settings = engine_settings({"keep": 0.5, "method": method, "merge": True})
    assert isinstance(settings.selector(), otprune.METHODS[method])
    assert settings.merge


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (0.1, otprune.OTPruneError, "expected a dictionary"),
        ({}, otprune.OTPruneError, 'no "keep"'),
        ({"keep": 0.0}, otprune.KeepError, "no token"),
        ({"keep": 7.5}, otprune.KeepError, "more than everything"),
        ({"keep": True}, otprune.KeepError, "bool"),
        ({"keep": "auto"}, otprune.UnsupportedError, "before any feature exists"),
        ({"keep": {"ratio": 0.1}}, otprune.KeepError, "dict"),
        ({"keep": 0.1, "mass": "log"}, otprune.UnsupportedError, "mass='log'"),
        ({"keep": 0.1, "method": "magic"}, otprune.OTPruneError, "method='magic'.*'otprune'"),
        ({"keep": 0.1, "method": []}, otprune.OTPruneError, "method=\\[\\]"),
        ({"keep": 0.1, "merge": 1}, otprune.OTPruneError, "merge=1"),
        ({"keep": 0.1, "merge": "yes"}, otprune.OTPruneError, "merge='yes'"),
        ({"keep": 0.1, "positions": "near"}, otprune.OTPruneError, "positions='near'"),
        ({"keep": 0.1, "untested_vllm": "go"}, otprune.OTPruneError, "untested_vllm='go'"),
        ({"keep": 0.1, "kep": 0.2}, otprune.OTPruneError, "'kep'.*expected only keep"),
    ],
)
def test_what_an_engine_refuses(given, error, said):
    with pytest.raises(error, match=said):
        engine_settings(given)


def test_no_mass_is_what_there_is():
    assert engine_settings({"keep": 0.1, "mass": None}) == Settings(keep=0.1)
    assert engine_settings({"keep": 0.1, "mass": "none"}) == Settings(keep=0.1)


def test_a_request_changes_what_it_names():
    engine = Settings(keep=0.1, method="grid", positions="compact")
    assert request_settings(engine, {"keep": 3}) == Settings(3, "grid", positions="compact")
    assert request_settings(engine, {"merge": True}).merge
    assert request_settings(engine, {}) == engine


@pytest.mark.parametrize("given", [{"positions": "compact"}, {"untested_vllm": "unpruned"}])
def test_a_request_cannot_change_the_engine(given):
    with pytest.raises(otprune.OTPruneError, match="expected only keep, method, merge"):
        request_settings(Settings(0.1), given)


def test_a_request_is_checked_like_an_engine():
    with pytest.raises(otprune.KeepError):
        request_settings(Settings(0.1), {"keep": 2.0})
    with pytest.raises(otprune.UnsupportedError, match="auto"):
        request_settings(Settings(0.1), {"keep": "auto"})


def test_identity_tells_apart_what_differs():
    made = [Settings(1), Settings(1.0), Settings(1, merge=True), Settings(1, method="grid")]
    assert len({fingerprint(settings) for settings in made}) == len(made)
    assert fingerprint(Settings(0.5)) == fingerprint(Settings(0.5, untested_vllm="unpruned"))
