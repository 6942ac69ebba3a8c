"""docs/support.md says what holds for the installed transformers."""

from __future__ import annotations

import json
from typing import get_args

import pytest
import torch
import transformers

from otprune.engines.transformers import support
from otprune.engines.transformers.families import family
from otprune.engines.transformers.grouping import Grouping
from otprune.engines.transformers.towers import TOWERS
from tests.families.tiny import FAMILIES
from tools import support_heads, support_layers, support_stage, support_watch
from tools.support_cases import NotRunError
from tools.support_sweep import build, heeds_positions, outcome
from tools.support_table import GROUPINGS, RECORD, TABLE, TESTED, classes, heads, table

SWEEP = json.loads(RECORD.read_text())
same_version = pytest.mark.skipif(
    SWEEP["transformers"] != transformers.__version__,
    reason=f"the table is of transformers {SWEEP['transformers']}",
)


@same_version
def test_the_table_is_what_the_generator_writes() -> None:
    assert TABLE.read_text() == table(SWEEP), "run python -m tools.support_table"


@same_version
def test_a_class_that_went_wrong_is_not_listed_as_working() -> None:
    wrong = {"AriaForConditionalGeneration": {"outcome": "wrong", "why": "other answer"}}
    with pytest.raises(ValueError, match=r"AriaForConditionalGeneration .* other answer"):
        table(SWEEP | {"classes": SWEEP["classes"] | wrong})


@same_version
def test_a_stage_that_went_wrong_is_not_listed_as_working() -> None:
    name = "AriaForConditionalGeneration"
    wrong = SWEEP["classes"][name] | {"stage": {"outcome": "wrong", "why": "other logits"}}
    with pytest.raises(ValueError, match=r"inside its encoder went wrong: other logits"):
        table(SWEEP | {"classes": SWEEP["classes"] | {name: wrong}})


@same_version
def test_a_stage_in_the_language_model_that_went_wrong_is_not_listed_as_working() -> None:
    name = "AriaForConditionalGeneration"
    wrong = SWEEP["classes"][name] | {"layers": {"outcome": "wrong", "why": "other logits"}}
    with pytest.raises(ValueError, match=r"inside its model went wrong: other logits"):
        table(SWEEP | {"classes": SWEEP["classes"] | {name: wrong}})


def test_the_stage_in_the_language_model_of_two_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "PaliGemmaForConditionalGeneration"
    assert support_layers.outcome(name) == {"outcome": "ran", "calls": ["one", "two", "batch"]}
    assert support_layers.outcome("Gemma3ForConditionalGeneration")["outcome"] == "refused"
    # Where the masks of the reference hide other tokens, it is seen.
    dropped = support_layers._dropped
    monkeypatch.setattr(support_layers, "_dropped", lambda *call: dropped(*call).roll(1, dims=1))
    made = support_layers.outcome(name)
    assert made["outcome"] == "wrong"
    assert "from hidden keys" in made["why"]


@same_version
def test_a_session_that_went_wrong_is_not_listed_as_working() -> None:
    name = "AriaForConditionalGeneration"
    wrong = SWEEP["classes"][name] | {"watch": {"outcome": "wrong", "why": "other logits"}}
    with pytest.raises(ValueError, match=r"in a session went wrong: other logits"):
        table(SWEEP | {"classes": SWEEP["classes"] | {name: wrong}})


def test_sessions_of_two_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "LlavaForConditionalGeneration"
    assert support_watch.outcome(name) == {"outcome": "ran"}
    assert support_watch.outcome("Gemma3ForConditionalGeneration")["outcome"] == "refused"
    # Where keys are moved to other positions than those asked for, it is seen.
    turn = support_watch.KeyRotation.__call__
    monkeypatch.setattr(
        support_watch.KeyRotation, "__call__", lambda self, keys, by: turn(self, keys, by + 1)
    )
    made = support_watch.outcome(name)
    assert made["outcome"] == "wrong"
    assert "moved keys" in made["why"]


def test_a_known_encoder_is_not_refused_and_an_unknown_one_is() -> None:
    for name, one in SWEEP["classes"].items():
        stage = one["stage"]
        if stage["outcome"] == "ran":
            assert stage["encoder"] in TOWERS, name
        elif stage["outcome"] == "refused":
            several = "several vision encoders" in stage["why"]
            assert stage["encoder"] not in TOWERS or several, name
    assert all(SWEEP["classes"][name]["stage"]["outcome"] == "ran" for name in TESTED)


def test_the_stage_of_one_class_that_is_right_and_of_one_that_is_refused() -> None:
    made = support_stage.outcome("PaliGemmaForConditionalGeneration")
    assert (made["outcome"], made["encoder"], made["among"]) == ("ran", "SiglipVisionModel", "kept")
    assert made["calls"][:2] == ["one", "two"]
    made = support_stage.outcome("JanusForConditionalGeneration")
    assert (made["outcome"], made["encoder"]) == ("refused", "JanusVisionModel")


def test_a_stage_that_changes_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one behind the last layer that the model reads would be."""
    monkeypatch.setattr(support_stage, "HALF", support_stage.WHOLE)
    made = support_stage.outcome("PaliGemmaForConditionalGeneration")
    assert made["outcome"] == "wrong"
    assert "the stage changes nothing" in made["why"]


@same_version
def test_a_head_that_went_wrong_is_not_listed_as_working() -> None:
    wrong = {"AriaModel": {"outcome": "wrong", "why": "other output"}}
    with pytest.raises(ValueError, match=r"AriaModel .* other output"):
        heads(SWEEP | {"heads": SWEEP["heads"] | wrong})


def test_a_base_model_and_a_head_run_and_one_that_goes_wrong_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PaliGemmaModel", "Gemma3ForSequenceClassification"):
        assert support_heads.outcome(name) == {"outcome": "ran", "calls": ["one", "two", "batch"]}
    monkeypatch.setattr(support_heads, "_hidden", lambda *call: torch.zeros(1))
    assert support_heads.outcome("PaliGemmaModel")["outcome"] == "wrong"


def test_the_tested_classes_are_those_of_the_matrix() -> None:
    assert {type(family.model()).__name__ for family in FAMILIES.values()} == TESTED


def test_every_grouping_has_words() -> None:
    assert set(GROUPINGS) == set(get_args(Grouping))


@pytest.mark.slow
@same_version
@pytest.mark.parametrize("name", [n for n, c in SWEEP["classes"].items() if c["outcome"] == "ran"])
def test_what_ran_still_runs(name: str) -> None:
    found = outcome(name)
    assert found["outcome"] == "ran"
    # A busy machine may not come as far as the record in the time that a class has, or farther.
    late = any("took longer" in why for why in found.get("not", {}).values())
    assert late or set(SWEEP["classes"][name]["calls"]) <= set(found["calls"])


@pytest.mark.slow
@same_version
def test_every_class_that_does_not_generate_is_in_the_table() -> None:
    assert support_heads.classes() == list(SWEEP["heads"])
    for name, one in SWEEP["heads"].items():
        able, why = support(getattr(transformers, name))
        assert able == (one["outcome"] != "refused")
        assert able or why.endswith(one["why"])


@pytest.mark.slow
@same_version
@pytest.mark.parametrize("name", [n for n, c in SWEEP["heads"].items() if c["outcome"] == "ran"])
def test_the_head_that_ran_still_runs(name: str) -> None:
    assert support_heads.outcome(name)["outcome"] == "ran"


@pytest.mark.slow
@same_version
@pytest.mark.parametrize(
    "name", [n for n, c in SWEEP["classes"].items() if c["stage"]["outcome"] == "ran"]
)
def test_the_stage_that_ran_still_runs(name: str) -> None:
    made = support_stage.outcome(name)
    assert (made["outcome"], made["among"]) == ("ran", SWEEP["classes"][name]["stage"]["among"])


@pytest.mark.slow
@same_version
@pytest.mark.parametrize(
    "name", [n for n, c in SWEEP["classes"].items() if c["layers"]["outcome"] == "ran"]
)
def test_the_stage_in_the_language_model_that_ran_still_runs(name: str) -> None:
    assert support_layers.outcome(name)["outcome"] == "ran"


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in classes() if support(getattr(transformers, n))[0]])
def test_positions_reach_attention_or_the_family_says_that_they_do_not(name: str) -> None:
    try:
        model = build(name)
        with torch.no_grad():
            heeds = heeds_positions(model)
    except NotRunError as error:
        pytest.skip(error.why)
    assert heeds == (family(model.config).positions is None)
