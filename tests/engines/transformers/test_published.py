"""The methods of other groups in a model: what the encoder and the prompt say reaches them."""

from dataclasses import replace

import pytest
import torch

import otprune
from otprune.engines.transformers.sources import SEEN
from tests.families.tiny import FAMILIES

NEEDY = [method for method in otprune.METHODS.values() if method.needs]


@torch.no_grad()
@pytest.mark.parametrize("method", NEEDY, ids=lambda x: x.name)
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_model_keeps_what_the_method_keeps_of_its_tokens(name, method):
    model, inputs = FAMILIES[name].model("sdpa"), FAMILIES[name].inputs((1, 2))
    selector = method(0.3)
    images = otprune.visual_tokens(model, inputs, cues=method.uses & SEEN)
    with otprune.prune(model, selector, merge=True) as run:
        logits = model(**inputs).logits
    assert logits.isfinite().all()
    for item, image in zip(run.last, images, strict=True):
        cues = replace(image.cues or otprune.Cues(), question=item.cues.question)
        said = selector.reduce(image.features, cues=cues)
        assert item.indices.equal(said.indices)
        torch.testing.assert_close(item.masses, said.masses)
