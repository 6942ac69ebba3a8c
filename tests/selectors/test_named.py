"""Plain values become the arguments of `otprune.prune`, with errors that say what to do."""

import inspect
from dataclasses import dataclass
from typing import ClassVar

import pytest

import otprune
from otprune import METHODS
from otprune.selectors import by_name
from otprune.selectors.named import every_setting, settings_of


def test_settings_reach_the_selector():
    assert by_name("otprune", 0.098, gamma=0.01, rank=64, seed=None)["selector"] == otprune.OTPrune(
        0.098, gamma=0.01, rank=64
    )
    assert by_name("random", 56, seed=3)["selector"] == otprune.RandomPrune(56, seed=3)
    assert by_name("transport", "auto", metric="euclidean")["selector"] == otprune.TransportPrune(
        "auto", metric="euclidean"
    )


def test_what_is_left_out_is_the_default_of_prune():
    defaults = inspect.signature(otprune.prune).parameters
    made = by_name("dpp", 0.1)
    assert made.pop("selector") == otprune.DPPPrune(0.1)
    assert made == {name: defaults[name].default for name in ("merge", "mass", "alpha", "distance")}
    assert by_name("dpp", 0.1, merge=True, mass="token", alpha=0.5) == {
        "selector": otprune.DPPPrune(0.1),
        "merge": True,
        "mass": "token",
        "alpha": 0.5,
        "distance": False,
    }


def test_recommended_is_a_name():
    assert by_name("recommended", 0.2) == otprune.recommended(0.2)
    assert settings_of("recommended") == ("question",)
    heard = otprune.recommended(0.2, question=0.9)
    assert by_name("recommended", 0.2, question=0.9) == heard


def test_a_new_method_brings_its_settings_along(monkeypatch):
    @dataclass(frozen=True)
    class Striped(otprune.GridPrune):
        stripes: int = 2
        name: ClassVar[str] = "striped"

    monkeypatch.setitem(METHODS, "striped", Striped)
    assert settings_of("striped") == ("stripes",)
    assert "stripes" in every_setting()
    assert by_name("striped", 3, stripes=5)["selector"] == Striped(3, stripes=5)
    with pytest.raises(otprune.OTPruneError, match=r"stripes is not .* it belongs to striped"):
        by_name("otprune", 3, stripes=5)


def test_no_setting_has_the_name_of_something_else():
    """Settings travel beside these names in flat dictionaries."""
    pytest.importorskip("transformers")
    taken = {*inspect.signature(by_name).parameters, *inspect.signature(otprune.prune).parameters}
    lmms = {"pretrained", "device", "dtype", "batch_size", "max_batch_size"}
    lmms |= {"attn_implementation", "trust_remote_code"}
    assert not (taken | lmms | {"untested_vllm"}) & set(every_setting())


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        ("otprnue", {}, "no method 'otprnue': did you mean otprune?"),
        ("zzz", {}, "no method 'zzz': expected one of otprune, transport, .*, recommended"),
        (["otprune"], {}, r"no method \['otprune'\]"),
        (None, {}, "no method None: expected one of"),
        ("otprune", {"gama": 1.0}, "no method has a setting 'gama': did you mean gamma?"),
        ("recommended", {"gama": 1.0}, "no method has a setting 'gama': did you mean gamma?"),
        ("grid", {"gamma": 1.0}, "gamma is not a setting of method grid: it belongs to otprune"),
        ("recommended", {"gamma": 1.0}, "leave gamma out, or name a method"),
        ("recommended", {"merge": False, "alpha": 1.0}, "leave merge, alpha out, or name a method"),
        ("recommended", {"mass": "none"}, "leave mass out, or name a method"),
        ("dpp", {"alpha": 1.0}, "add mass total or mass token, or distance, or leave alpha out"),
        ("dpp", {"alpha": 1.0, "mass": "none"}, "add mass total or mass token"),
        ("dpp", {"alpha": -1.0, "mass": "total"}, "alpha=-1.0"),
        ("dpp", {"mass": "all"}, "mass='all'"),
        ("dpp", {"merge": "yes"}, "merge='yes': expected True or False"),
        ("dpp", {"merge": 1}, "merge=1: expected True or False"),
        ("otprune", {"gamma": "big"}, "gamma is 'big'"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(method, values, said):
    with pytest.raises(otprune.OTPruneError, match=said) as error:
        by_name(method, 0.1, **values)
    assert "\n" not in str(error.value)


def test_keep_is_checked():
    for method in (*METHODS, "recommended"):
        with pytest.raises(otprune.KeepError, match="more than everything"):
            by_name(method, 1.5)
