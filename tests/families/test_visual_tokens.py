"""`visual_tokens`: the tokens of a call as a selector gets them, without pruning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from otprune import (
    OTPruneError,
    UnsupportedError,
    VisualTokens,
    prune,
    prune_inputs,
    visual_tokens,
)
from otprune.selectors import DPPPrune, GridPrune

from .base import images_in
from .reference import entering
from .test_matrix import BATCH, families, tiny, with_video
from .tiny import FAMILIES


def check(name: str, images: tuple[int, ...], video: bool) -> None:
    model, inputs = tiny(name), FAMILIES[name].inputs(images, video=video)
    given = dict(inputs)
    found = visual_tokens(model, inputs)
    assert inputs.keys() == given.keys()
    assert all(inputs[key] is given[key] for key in given)
    with torch.no_grad(), prune(model, GridPrune(2)) as run:
        model(**inputs)
    embeds = entering(model, inputs)["inputs_embeds"]
    assert run.last is not None
    assert len(found) == len(run.last) == len(images_in(inputs["input_ids"])) > 0
    for one, item, image in zip(found, run.last, images_in(inputs["input_ids"]), strict=True):
        assert isinstance(one, VisualTokens)
        assert (one.modality, one.row, one.unit) == (item.modality, item.row, item.unit)
        assert item.features is not None
        assert torch.equal(one.features, item.features)
        assert torch.equal(one.features, embeds[image.row, image.columns])
        assert not one.features.requires_grad


@families
def test_images(name: str) -> None:
    check(name, BATCH, video=False)


@with_video
def test_images_and_videos_in_the_order_of_the_prompt(name: str) -> None:
    check(name, (2, 0, 1), video=True)


def test_text_alone_has_none() -> None:
    assert visual_tokens(tiny("llava"), FAMILIES["llava"].inputs((0, 0))) == []


@pytest.mark.parametrize("of", [visual_tokens, lambda *x: prune_inputs(*x, DPPPrune(0.5))])
def test_placeholders_without_pixels_are_refused(of: Callable[..., Any]) -> None:
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs((1,))
    del inputs["pixel_values"]
    with pytest.raises(OTPruneError, match="16 image placeholders, and no image comes with them"):
        of(model, inputs)


def test_the_same_calls_are_refused_as_by_prune(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = FAMILIES["llava"].inputs()
    for call in (lambda m: visual_tokens(m, inputs), lambda m: prune(m, GridPrune(2))):
        with pytest.raises(UnsupportedError, match="Linear is not a transformers model"):
            call(torch.nn.Linear(2, 2))
    model = tiny("llava")
    with pytest.raises(OTPruneError, match=r"48 image placeholders .* made 32"):
        visual_tokens(model, inputs | {"pixel_values": inputs["pixel_values"][:2]})
    with pytest.raises(UnsupportedError, match="input_ids instead of inputs_embeds"):
        visual_tokens(model, {"pixel_values": inputs["pixel_values"]})
    with pytest.raises(OTPruneError, match="untested_transformers='maybe'"):
        visual_tokens(model, inputs, "maybe")  # type: ignore[arg-type]
    monkeypatch.setattr("otprune.engines.transformers.versions.installed", lambda: (99, 0))
    with pytest.raises(UnsupportedError, match="newer than what otprune was tested with"):
        visual_tokens(model, inputs)
    assert len(visual_tokens(model, inputs, "prune")) == 3
