"""The methods of other groups in a model: what the encoder knows reaches them."""

import pytest
import torch

import otprune
from otprune.engines.transformers.seen import SEEN
from tests.families.tiny import FAMILIES

ABLE = [method for method in otprune.METHODS.values() if method.needs and method.needs <= SEEN]


@torch.no_grad()
@pytest.mark.parametrize("method", ABLE, ids=lambda x: x.name)
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_model_keeps_what_the_method_keeps_of_its_tokens(name, method):
    model, inputs = FAMILIES[name].model("sdpa"), FAMILIES[name].inputs((1, 2))
    selector = method(0.3)
    images = otprune.visual_tokens(model, inputs, cues=method.needs)
    with otprune.prune(model, selector, merge=True) as run:
        logits = model(**inputs).logits
    assert logits.isfinite().all()
    for item, image in zip(run.last, images, strict=True):
        said = selector.reduce(image.features, cues=image.cues)
        assert item.indices.equal(said.indices)
        torch.testing.assert_close(item.masses, said.masses)
