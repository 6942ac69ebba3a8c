"""Unsupported models are refused with class name and reason."""

from __future__ import annotations

import pytest
import transformers
from transformers import (
    Blip2ForConditionalGeneration,
    GitConfig,
    GitForCausalLM,
    PreTrainedModel,
)

from otprune import DivPrune, UnsupportedError, prune, prune_inputs
from otprune.engines.transformers import support
from tools.small_models import small
from tools.support_table import classes


def git() -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    layers = {**sizes, "num_hidden_layers": 1}
    vision = {**layers, "image_size": 32, "patch_size": 16}
    return GitForCausalLM(GitConfig(vision_config=vision, vocab_size=320, **layers))


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (git, "GitForCausalLM takes no mm_encoder_outputs"),
        (
            lambda: small(Blip2ForConditionalGeneration),
            "Blip2ForConditionalGeneration: its generate",
        ),
    ],
    ids=["git", "blip2"],
)
def test_unsupported_models_are_refused(build, why):
    model = build()
    with pytest.raises(UnsupportedError, match=why):
        prune(model, DivPrune(keep=0.5)).__enter__()
    with pytest.raises(UnsupportedError, match=why):
        prune_inputs(model, {}, DivPrune(keep=0.5))
    assert not model._forward_pre_hooks
    assert "generate" not in vars(model)


def test_every_refusal_names_its_class() -> None:
    refused = set()
    for name in classes():
        able, why = support(getattr(transformers, name))
        if not able:
            refused.add(name)
            assert why.startswith(name)
            assert len(why) > len(name) + 10
            assert "\n" not in why
    assert refused > {"GitForCausalLM", "Blip2ForConditionalGeneration"}
