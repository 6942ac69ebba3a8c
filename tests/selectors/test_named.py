"""Plain values become the arguments of `otprune.prune`, with errors that say what to do."""

import inspect
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest

import otprune
from otprune import METHODS
from otprune.selectors import by_name
from otprune.selectors.named import class_of, every_setting, name_of, settings_of

MINE = """
from dataclasses import dataclass, field
import torch
import otprune

@dataclass(frozen=True)
class Last(otprune.Selector):
    needs = frozenset({"question"})
    back: int = 0

    def pick(self, tokens, k, cues):
        return torch.arange(self.back, self.back + k).expand(len(tokens), k)

@dataclass(frozen=True)
class Must(Last):
    step: int = field(kw_only=True)

class Half(otprune.Selector):
    pass
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A package with modules of a user's own: the methods, and one that fails on import."""
    home = tmp_path / "kept_by_me"
    home.mkdir()
    (home / "methods.py").write_text(MINE)
    (home / "broken.py").write_text("import no_such_package_at_all")
    (home / "empty.py").write_text("number = 3")
    monkeypatch.syspath_prepend(tmp_path)
    yield "kept_by_me"
    for name in [name for name in sys.modules if name.split(".")[0] == "kept_by_me"]:
        del sys.modules[name]


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


def test_a_method_of_ones_own_is_named_by_its_class(mine):
    name = f"{mine}.methods:Last"
    made = by_name(name, 0.1, merge=True, back=3, own=True)
    assert (type(made["selector"]).__name__, made["selector"].back) == ("Last", 3)
    assert (made["selector"].keep, made["merge"]) == (0.1, True)
    assert settings_of(name, own=True) == ("back",)
    assert name_of(made["selector"]) == name
    assert by_name(f"{mine}.methods:Must", 5, step=2, own=True)["selector"].step == 2
    assert class_of("otprune:GridPrune", own=True) is otprune.GridPrune
    assert name_of(otprune.GridPrune(3)) == "grid"


def test_modules_are_imported_only_where_the_caller_says_so(mine):
    name = f"{mine}.methods:Last"
    for asked in (by_name, settings_of, class_of):
        words = (name, 0.1) if asked is by_name else (name,)
        with pytest.raises(otprune.OTPruneError, match=r"is not imported here.*expected one of"):
            asked(*words)
    assert mine not in sys.modules


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kept_by_you:Last", "there is no module kept_by_you among"),
        ("kept_by_me.others:Last", r"there is no module kept_by_me\.others among"),
        ("kept_by_me.broken:Last", "failed with ModuleNotFoundError: .*no_such_package_at_all"),
        ("kept_by_me.methods:Lost", "has no Lost: did you mean Last?"),
        ("kept_by_me.empty:Last", "has no Last: it has no subclass"),
        ("kept_by_me.empty:number", "number is no subclass of otprune.Selector with a method pick"),
        ("kept_by_me.methods:Half", "Half is no subclass of otprune.Selector with a method pick"),
        ("kept_by_me.methods:Must", "Must cannot be made: .*step"),
        ("kept_by_me/methods.py:Last", "expected package.module:Class"),
        ("methods.py:Last", "expected package.module:Class"),
        (".methods:Last", "expected package.module:Class"),
        ("kept_by_me.methods:", "expected package.module:Class"),
        (":Last", "expected package.module:Class"),
    ],
)
def test_errors_of_ones_own_methods_are_one_line(mine, name, said):
    with pytest.raises(otprune.OTPruneError, match=said) as error:
        by_name(name, 0.1, own=True)
    assert "\n" not in str(error.value)


def test_settings_of_ones_own_methods_are_checked(mine):
    with pytest.raises(otprune.OTPruneError, match="'bakc': did you mean back"):
        by_name(f"{mine}.methods:Last", 0.1, bakc=3, own=True)
    with pytest.raises(otprune.OTPruneError, match=r"gamma is not .* it belongs to otprune"):
        by_name(f"{mine}.methods:Last", 0.1, gamma=3, own=True)
