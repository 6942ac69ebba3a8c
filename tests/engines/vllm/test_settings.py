"""Settings of engines and requests, and the errors for wrong ones."""

import json

import numpy as np
import pytest

import otprune
from otprune.engines.vllm.settings import engine_settings, fingerprint, request_settings
from tests.random_tokens import TOKENS_ALONE


def test_a_ratio_alone_is_enough():
    settings = engine_settings({"keep": 0.1})
    assert settings.selector == otprune.OTPrune(0.1)
    assert (settings.merge, settings.positions, settings.untested_vllm) == (False, "auto", "refuse")
    assert engine_settings({"keep": 1}).selector.count(100) == 1
    assert engine_settings({"keep": 1.0}).selector.count(100) == 100


@pytest.mark.parametrize("method", TOKENS_ALONE)
def test_every_method_can_be_named(method):
    settings = engine_settings({"keep": 0.5, "method": method, "merge": True})
    assert settings.selector == otprune.METHODS[method](0.5)
    assert settings.merge


@pytest.mark.parametrize(
    ("given", "selector"),
    [
        ({"gamma": 0.01, "rank": 64}, otprune.OTPrune(0.5, gamma=0.01, rank=64)),
        ({"gamma": "scaled", "rank": "auto"}, otprune.OTPrune(0.5, rank="auto")),
        ({"gamma": None, "rank": None}, otprune.OTPrune(0.5)),
        (
            {"method": "transport", "metric": "euclidean"},
            otprune.TransportPrune(0.5, metric="euclidean"),
        ),
        ({"method": "random", "seed": 3}, otprune.RandomPrune(0.5, seed=3)),
    ],
)
def test_the_settings_of_a_method(given, selector):
    assert engine_settings({"keep": 0.5, **given}).selector == selector
    assert request_settings(engine_settings({"keep": 0.5}), given).selector == selector


def test_a_stage_inside_the_encoder():
    engine = engine_settings({"keep": 0.5, "encoder_keep": 0.35})
    assert engine.stage == otprune.EncoderStage(0.35)
    assert request_settings(engine, {"keep": 0.1}).stage == engine.stage
    asked = request_settings(engine, {"encoder_after": 3, "method": "dpp"})
    assert asked.stage == otprune.EncoderStage(0.35, after=3)
    assert request_settings(engine, {"encoder_keep": 1.0}).stage is None, "keeps all: none"
    assert engine_settings({"keep": 0.5}).stage is None


def test_recommended_is_all_of_the_preset_but_the_distance_term():
    preset = otprune.recommended(0.25)
    able, unable = (engine_settings({"keep": 0.25, "allow_mass": x}) for x in (True, False))
    without = {"method": "recommended", "mass": "none"}
    for settings, mass in (
        (engine_settings({"keep": 0.25, "method": "recommended"}), "token"),
        (engine_settings({"keep": 0.25, **without}), "none"),
        (request_settings(able, {"method": "recommended"}), "token"),
        (request_settings(able, without), "none"),
        (request_settings(unable, without), "none"),
    ):
        assert settings.method == "recommended"
        assert (settings.selector, settings.merge) == (preset["selector"], preset["merge"])
        assert (settings.mass, settings.alpha) == (mass, 1.0)
    with pytest.raises(otprune.UnsupportedError, match="with its mass: this engine was started wi"):
        request_settings(unable, {"method": "recommended"})


def keeps(settings):
    return tuple(settings.selector_of(modality).keep for modality in ("image", "video"))


@pytest.mark.parametrize(
    ("given", "image", "video"),
    [
        ({"image_pruning_rate": 0.9}, 0.1, 1.0),
        ({"video_pruning_rate": 0.75}, 1.0, 0.25),
        ({"video_retention_ratio": 0.25}, 1.0, 0.25),
        ({"video_retention_ratio": 1}, 1.0, 1.0),
        ({"image_pruning_rate": 0}, 1.0, 1.0),
        ({"image_pruning_rate": 0.9, "video_retention_ratio": 0.5}, 0.1, 0.5),
        ({"keep": 64, "video_pruning_rate": 0.9}, 64, 0.1),
        ({"keep": 1, "image_pruning_rate": 0.9}, 0.1, 1),
    ],
)
def test_names_that_other_projects_have(given, image, video):
    settings = engine_settings(given)
    assert keeps(settings) == (image, video)
    assert [type(keep) for keep in keeps(settings)] == [type(image), type(video)]
    assert settings.selector_of("image") == otprune.OTPrune(image)
    assert keeps(request_settings(engine_settings({"keep": 1.0}), given)) == (image, video)


def test_a_request_changes_the_modality_that_it_names():
    engine = engine_settings({"image_pruning_rate": 0.9, "video_retention_ratio": 0.5})
    for asked, made in (
        ({}, (0.1, 0.5)),
        ({"image_pruning_rate": 0.75}, (0.25, 0.5)),
        ({"video_pruning_rate": 0.75}, (0.1, 0.25)),
        ({"keep": 0.3}, (0.3, 0.3)),
        ({"keep": 0.3, "video_pruning_rate": 0.25}, (0.3, 0.75)),
        ({"method": "recommended", "mass": "none"}, (0.1, 0.5)),
    ):
        assert keeps(request_settings(engine, asked)) == made
    both = engine_settings({"keep": 0.3})
    assert engine_settings({"image_pruning_rate": 0.7, "video_pruning_rate": 0.7}) == both
    one, other = engine, request_settings(engine, {"image_pruning_rate": 0.75})
    assert fingerprint(one, "image") != fingerprint(other, "image")
    assert fingerprint(one, "video") == fingerprint(other, "video")


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_a_dropped_share_counts_what_the_kept_share_counts(digits):
    """Equal ratios count alike, though 1 - 0.9 is not 0.1 in binary."""
    whole = 10**digits
    for dropped in range(whole):
        rate, keep = dropped / whole, (whole - dropped) / whole
        assert keeps(engine_settings({"image_pruning_rate": rate})) == (keep, 1.0)
        assert keeps(engine_settings({"video_pruning_rate": rate})) == (1.0, keep)


def test_shares_at_the_limits():
    assert engine_settings({"image_pruning_rate": float(np.nextafter(1, 0))}).selector.keep > 0
    assert engine_settings({"image_pruning_rate": 5e-324}).selector.keep == 1.0
    assert engine_settings({"video_retention_ratio": 5e-324}).video_keep == 5e-324


WRONG = [
    (0.1, otprune.OTPruneError, "expected a dictionary"),
    ({"keep": 0.0}, otprune.KeepError, "no token"),
    ({"keep": 7.5}, otprune.KeepError, "more than everything"),
    ({"keep": True}, otprune.KeepError, "bool"),
    ({"keep": None}, otprune.KeepError, "None"),
    ({"keep": "auto"}, otprune.UnsupportedError, "before any feature exists"),
    ({"keep": otprune.Auto(0.1)}, otprune.UnsupportedError, "before any feature exists"),
    ({"keep": otprune.Budget(9)}, otprune.UnsupportedError, "before any feature exists"),
    ({"keep": "half"}, otprune.KeepError, "half"),
    ({"keep": {"ratio": 0.1}}, otprune.KeepError, "dict"),
    ({"keep": 0.1, "mass": "log"}, otprune.OTPruneError, "mass='log'"),
    ({"keep": 0.1, "alpha": 0.5}, otprune.OTPruneError, "add mass total or mass token"),
    ({"keep": 0.1, "mass": "total", "alpha": -1}, otprune.OTPruneError, r"alpha=-1\.0"),
    ({"keep": 0.1, "distance": True}, otprune.UnsupportedError, "differs between queries"),
    ({"keep": 0.1, "encoder_keep": 0.0}, otprune.KeepError, "inside the encoder: .*no token"),
    ({"keep": 0.1, "encoder_keep": "auto"}, otprune.KeepError, "inside the encoder: keep=Auto"),
    ({"keep": 0.1, "encoder_after": 0.5}, otprune.OTPruneError, "encoder_keep is missing"),
    (
        {"keep": 0.1, "encoder_keep": 0.5, "encoder_after": 1.5},
        otprune.OTPruneError,
        r"inside the encoder: after=1\.5",
    ),
    ({"keep": 0.1, "encoder": {"keep": 0.35}}, otprune.UnsupportedError, '"encoder_keep": 0.35'),
    (
        {"keep": 0.1, "method": "recommended", "mass": "token"},
        otprune.OTPruneError,
        "leave mass out",
    ),
    ({"keep": 0.1, "method": "magic"}, otprune.OTPruneError, "no method 'magic'.*otprune"),
    (
        {"keep": 0.1, "method": "examples.own_selector:FarthestPoints"},
        otprune.OTPruneError,
        "a class in a module, which is not imported here",
    ),
    (
        {"keep": 0.1, "method": "examples.own_selector:FarthestPoints", "own": True},
        otprune.OTPruneError,
        "'own': expected only keep",
    ),
    ({"keep": 0.1, "method": []}, otprune.OTPruneError, r"no method \[\]"),
    ({"keep": 0.1, "method": None}, otprune.OTPruneError, "no method None"),
    # In a worker these would end the engine.
    ({"keep": 0.1, "mass": "total", "alpha": 1e39}, otprune.OTPruneError, "from 0 to 100"),
    ({"keep": 0.1, "method": "mmtok", "image_weight": 1e39}, otprune.OTPruneError, "image_weight"),
    ({"keep": 0.1, "merge": 1}, otprune.OTPruneError, "merge=1"),
    ({"keep": 0.1, "merge": "yes"}, otprune.OTPruneError, "merge='yes'"),
    ({"keep": 0.1, "kep": 0.2}, otprune.OTPruneError, "'kep'.*expected only keep"),
    ({"keep": 0.1, "video_keep": 0.2}, otprune.OTPruneError, "'video_keep'.*expected only keep"),
    ({"image_pruning_rate": 1.0}, otprune.KeepError, r"image_pruning_rate=1\.0: .*\[0, 1\)"),
    ({"image_pruning_rate": -0.1}, otprune.KeepError, r"-0\.1: expected a share"),
    ({"video_pruning_rate": float("nan")}, otprune.KeepError, "video_pruning_rate=nan"),
    ({"video_pruning_rate": 10**400}, otprune.KeepError, "expected a share"),
    ({"video_pruning_rate": True}, otprune.KeepError, "video_pruning_rate=True"),
    ({"video_pruning_rate": "0.5"}, otprune.KeepError, "video_pruning_rate='0.5'"),
    ({"video_pruning_rate": None}, otprune.KeepError, "video_pruning_rate=None"),
    ({"video_retention_ratio": 0.0}, otprune.KeepError, r"video_retention_ratio=0\.0: .*\(0, 1\]"),
    ({"video_retention_ratio": 64}, otprune.KeepError, "video_retention_ratio=64"),
    (
        {"video_pruning_rate": 0.5, "video_retention_ratio": 0.5},
        otprune.OTPruneError,
        "video_pruning_rate and video_retention_ratio are two names of one thing",
    ),
    (
        {"keep": 0.5, "image_pruning_rate": 0.5, "video_pruning_rate": 0.5},
        otprune.OTPruneError,
        "keep=0.5 beside image_pruning_rate and video_pruning_rate",
    ),
    (
        {"keep": "auto", "image_pruning_rate": 0.5},
        otprune.UnsupportedError,
        "before any feature exists",
    ),
    ({"keep": 7.5, "image_pruning_rate": 0.5}, otprune.KeepError, "more than everything"),
    ({"keep": 0.1, 3: 4}, otprune.OTPruneError, "has 3: expected only keep"),
    ({"keep": 0.1, "gamma": -1}, otprune.OTPruneError, r"gamma=-1\.0 is outside"),
    ({"keep": 0.1, "gamma": float("nan")}, otprune.OTPruneError, "gamma=nan is outside"),
    ({"keep": 0.1, "gamma": [1]}, otprune.OTPruneError, r"gamma is \[1\]"),
    ({"keep": 0.1, "rank": 0}, otprune.OTPruneError, "rank is 0"),
    ({"keep": 0.1, "seed": 3}, otprune.OTPruneError, "seed is not .* belongs to random"),
    ({"keep": 0.1, "method": "random", "seed": -1}, otprune.OTPruneError, "seed=-1"),
    (
        {"keep": 0.1, "method": "transport", "metric": []},
        otprune.OTPruneError,
        r"metric=\[\]",
    ),
    (
        {"keep": 0.1, "method": "recommended", "gamma": 0.01},
        otprune.OTPruneError,
        "leave gamma out",
    ),
    ({"keep": 0.1, "method": "recommended", "merge": True}, otprune.OTPruneError, "leave merge"),
]


@pytest.mark.parametrize(("given", "error", "said"), WRONG)
def test_what_engines_and_requests_refuse(given, error, said):
    with pytest.raises(error, match=said):
        engine_settings(given)
    with pytest.raises(error, match=said):
        request_settings(engine_settings({"keep": 0.5}), given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, 'no "keep".*image_pruning_rate'),
        ({"method": "grid"}, 'no "keep"'),
        ({"keep": 0.1, "positions": "near"}, "positions='near'"),
        ({"keep": 0.1, "untested_vllm": "go"}, "untested_vllm='go'"),
        ({"keep": 0.1, "allow_mass": 1}, "allow_mass=1"),
    ],
)
def test_what_an_engine_refuses(given, said):
    with pytest.raises(otprune.OTPruneError, match=said):
        engine_settings(given)


def test_what_does_not_run_on_a_cpu_is_refused_before_it_stops_an_engine(monkeypatch):
    """As backend="triton" does, but for the interpreter that some tests of Triton switch on."""

    class OnDevices(otprune.GridPrune):
        name = "on_devices"

        def pick(self, tokens, k, cues=None):
            raise otprune.UnsupportedError("the tokens are on cpu: move them")

    monkeypatch.setitem(otprune.METHODS, "on_devices", OnDevices)
    with pytest.raises(otprune.UnsupportedError, match=r"checks settings.*tokens are on cpu"):
        engine_settings({"keep": 0.1, "method": "on_devices"})


def test_an_engine_weighs_if_its_settings_have_a_mass_or_allow_one():
    for given, weighs in (
        ({}, False),
        ({"mass": None}, False),
        ({"mass": "none", "distance": "auto"}, False),
        ({"mass": "total"}, True),
        ({"allow_mass": True}, True),
        ({"method": "recommended"}, True),
    ):
        engine = engine_settings({"keep": 0.1, **given})
        assert engine.weighs == weighs
        if not weighs:
            with pytest.raises(otprune.UnsupportedError, match=r"started without mass.*allow_mass"):
                request_settings(engine, {"mass": "token"})
            continue
        made = request_settings(engine, {"mass": "token", "alpha": 0.5, "method": "grid"})
        assert (made.mass, made.alpha, made.weighs) == ("token", 0.5, True)
        assert request_settings(engine, {"mass": "none", "method": "grid"}).weighs


def test_a_request_without_mass_needs_no_strength():
    engine = engine_settings({"keep": 0.1, "mass": "token", "alpha": 0.5})
    assert request_settings(engine, {"mass": "total"}).alpha == 0.5
    for none in ("none", None):
        assert request_settings(engine, {"mass": none}).mass == "none"


def test_a_request_changes_what_it_names():
    engine = engine_settings({"keep": 0.1, "method": "grid", "positions": "compact"})
    fewer = request_settings(engine, {"keep": 3})
    assert (fewer.selector, fewer.positions) == (otprune.GridPrune(3), "compact")
    assert request_settings(engine, {"merge": True}).merge
    assert request_settings(engine, {}) == engine


def test_settings_of_the_engines_method_are_of_that_method_alone():
    engine = engine_settings({"keep": 0.1, "gamma": 0.01, "rank": 64, "merge": True})
    for asked in ({"rank": 9}, {"rank": 9, "method": "otprune"}):
        made = request_settings(engine, asked)
        assert made.selector == otprune.OTPrune(0.1, gamma=0.01, rank=9)
    assert request_settings(engine, {"rank": None}).selector == otprune.OTPrune(0.1, gamma=0.01)
    other = request_settings(engine, {"method": "transport", "metric": "euclidean"})
    assert other.selector == otprune.TransportPrune(0.1, metric="euclidean")
    assert other.merge, "merge is no setting of a method"
    preset = request_settings(engine, {"method": "recommended", "mass": "none"})
    assert preset.selector == otprune.SimplexPrune(0.1)
    preset = engine_settings({"keep": 0.1, "method": "recommended"})
    assert request_settings(preset, {"keep": 5}).merge
    assert not request_settings(preset, {"method": "dpp"}).merge
    with pytest.raises(otprune.OTPruneError, match="leave merge out"):
        request_settings(preset, {"merge": False})


@pytest.mark.parametrize(
    "given", [{"positions": "compact"}, {"untested_vllm": "unpruned"}, {"allow_mass": True}]
)
def test_a_request_cannot_change_the_engine(given):
    with pytest.raises(otprune.OTPruneError, match="expected only keep, image_pruning_rate"):
        request_settings(engine_settings({"keep": 0.1}), given)


def test_identity_tells_apart_what_differs():
    asked = [
        {"keep": 1},
        {"keep": 1.0},
        {"keep": 1, "merge": True},
        {"keep": 1, "method": "grid"},
        {"keep": 1, "gamma": 0.01},
        {"keep": 1, "gamma": float(np.nextafter(0.01, 1))},
        {"keep": 1, "rank": 64},
        {"keep": 1, "rank": "auto"},
        {"keep": 1, "method": "transport"},
        {"keep": 1, "method": "transport", "metric": "euclidean"},
        {"keep": 1, "method": "random"},
        {"keep": 1, "method": "random", "seed": 3},
        {"keep": 1, "positions": "compact"},
        {"keep": 1, "method": "recommended"},
        {"keep": 1, "encoder_keep": 0.35},
        {"keep": 1, "encoder_keep": 0.35, "encoder_after": 0.5},
        {"keep": 1, "encoder_keep": 0.5},
        {"keep": 1, "method": "recommended", "mass": "none"},
        {"keep": 1, "mass": "total"},
        {"keep": 1, "mass": "token"},
        {"keep": 1, "mass": "token", "alpha": 0.5},
        {"keep": 1, "allow_mass": True},
    ]
    made = [engine_settings(one) for one in asked]
    for modality in ("image", "video"):
        assert len({fingerprint(settings, modality) for settings in made}) == len(made)
    json.dumps(asked)  # what --hf-overrides can carry


def test_identity_is_the_same_for_what_does_not_differ():
    half = engine_settings({"keep": 0.5})
    for same in (
        {"untested_vllm": "unpruned"},
        {"gamma": "scaled"},
        {"merge": False},
        {"encoder_keep": 1.0, "encoder_after": 0.2},
    ):
        other = engine_settings({"keep": 0.5, **same})
        assert fingerprint(half, "image") == fingerprint(other, "image")


def test_a_method_that_needs_what_there_is_not_is_refused(monkeypatch):
    class Salient(otprune.GridPrune):
        name, needs = "salient", frozenset({"saliency"})

    monkeypatch.setitem(otprune.METHODS, "salient", Salient)
    with pytest.raises(otprune.UnsupportedError, match=r"needs saliency.* by the engine for vLLM"):
        engine_settings({"keep": 0.5, "method": "salient"})
