"""Which models can be pruned."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES,
)

from otprune import RandomPrune, UnsupportedError, prune, prune_inputs
from otprune.engines.transformers import FAMILIES as TABLE
from otprune.engines.transformers import support, versions
from otprune.engines.transformers.families import rows_of
from tests.families.tiny import FAMILIES


@pytest.mark.parametrize("name", FAMILIES)
def test_class_and_model_get_the_same_verdict(build, name):
    model = build(name)
    assert support(model) == support(type(model))
    assert support(model)[0]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("MllamaForConditionalGeneration", "takes no mm_encoder_outputs"),
        ("BlipForConditionalGeneration", "takes no mm_encoder_outputs"),
        ("Florence2ForConditionalGeneration", "takes no mm_encoder_outputs"),
        ("Kosmos2ForConditionalGeneration", "takes no mm_encoder_outputs"),
        ("IdeficsForVisionText2Text", "takes no mm_encoder_outputs"),
        ("LlamaForCausalLM", "neither images nor videos"),
    ],
)
def test_an_unsupported_class_gets_its_reason(name, why):
    able, reason = support(getattr(transformers, name))
    assert not able
    assert reason.startswith(name)
    assert why in reason
    assert "\n" not in reason


def test_every_image_text_to_text_class_gets_a_verdict():
    for names in NAMES.values():
        for name in names if isinstance(names, tuple) else (names,):
            able, reason = support(getattr(transformers, name))
            assert isinstance(able, bool)
            assert name in reason


def test_every_model_type_of_a_class_is_one_family():
    for model_type, names in NAMES.items():
        for name in names if isinstance(names, tuple) else (names,):
            model_class = getattr(transformers, name)
            if support(model_class)[0]:
                own = TABLE.get(model_class.config_class.model_type)
                assert TABLE.get(model_type) == own, model_type


def test_other_objects_are_refused():
    layer = torch.nn.Linear(2, 2)
    with (
        pytest.raises(UnsupportedError, match="Linear is not a transformers model"),
        prune(layer, RandomPrune(1)),
    ):
        pass
    with pytest.raises(UnsupportedError, match="Linear is not a transformers model"):
        prune_inputs(layer, {}, RandomPrune(1))


def test_old_transformers_is_refused_with_its_version(monkeypatch):
    monkeypatch.setattr(versions.transformers, "__version__", "5.17.2")
    able, reason = support(transformers.LlavaForConditionalGeneration)
    assert not able
    assert "5.17.2" in reason
    assert "5.18" in reason
    monkeypatch.setattr(versions.transformers, "__version__", "5.18.0.dev0")
    assert support(transformers.LlavaForConditionalGeneration)[0]


def test_a_refused_row_of_the_table_is_the_reason(monkeypatch):
    row = type(TABLE["internvl"])(refused="its tokens are not what they seem")
    monkeypatch.setitem(TABLE, "llava", row)
    able, reason = support(transformers.LlavaForConditionalGeneration)
    assert not able
    assert reason == "LlavaForConditionalGeneration: its tokens are not what they seem"


def test_an_image_is_within_one_sequence():
    at = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1]]).bool()
    assert rows_of([2, 1, 3], at, "image") == [0, 0, 2]
    with pytest.raises(ValueError, match=r"image of 4 tokens .* sequence 0"):
        rows_of([4, 2], at, "image")
