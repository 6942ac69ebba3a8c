"""The user's own method works wherever a selector does."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

import otprune
from otprune import Auto, Budget, Selector, Settings, WeightError, prune, prune_inputs
from tests.families.tiny import FAMILIES

GREEDY = {"max_new_tokens": 3, "do_sample": False}

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


@dataclass(frozen=True)
class Spread(Selector):
    """Every `step`-th token first, then the others. Sets no class attributes."""

    step: int = 3

    def pick(self, tokens, k, cues):
        place = torch.arange(tokens.shape[1], device=tokens.device)
        return (place % self.step * len(place) + place).argsort()[:k].expand(len(tokens), k)


class Bare(Selector):
    """Not even a dataclass."""

    def pick(self, tokens, k, cues):
        return torch.arange(k).flip(0).expand(len(tokens), k)


@dataclass(frozen=True)
class Heaviest(Selector):
    needs = frozenset({"weights"})
    note: str = field(default="", repr=False)

    def pick(self, tokens, k, cues):
        return cues.weights.argsort(dim=-1, descending=True, stable=True)[:, :k]


OWN = pytest.mark.parametrize("method", [Spread, Bare])
KEEP = pytest.mark.parametrize("keep", [0.4, 5, 1.0, "auto", Auto(0.3, max_keep=0.9), Budget(0.4)])


@OWN
@KEEP
def test_select_and_reduce(method, keep):
    tokens = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    selector = method(keep)
    kept = selector.select(tokens)
    assert selector.reduce(tokens, merge=True).indices.equal(kept)
    assert selector.select_each([tokens])[0].equal(kept)
    said = selector.explain(tokens)
    assert said.indices.equal(kept)
    assert said.certificate is None
    assert said.free_mass_w2 >= 0
    assert kept.equal(method(len(kept)).select(tokens))
    assert repr(selector).startswith(method.__name__)


@OWN
@KEEP
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_every_way_to_prune_a_model(build, name, method, keep):
    """In a block, enabled, for one call, and with `prune_inputs`: the same choice each time."""
    family, selector, model = FAMILIES[name], method(keep), build(name)
    inputs = family.inputs((1, 2), video=family.has_video)
    with prune(model, selector, merge=True) as run:
        logits = model(**inputs).logits
        ids = model.generate(**inputs, **GREEDY)
    for row in (0, 1):
        items = [item for item in run.last if item.row == row]
        wanted = selector.select_each([item.features for item in items])
        assert all(map(torch.equal, [item.indices for item in items], wanted))
    otprune.enable(model, selector, merge=True)
    try:
        assert torch.equal(model(**inputs).logits, logits)
    finally:
        otprune.disable(model)
    with prune(model, otprune.GridPrune(1)):
        settings = Settings(selector, merge=True)
        assert torch.equal(model.generate(**inputs, **GREEDY, otprune=settings), ids)
    shorter = prune_inputs(model, inputs, selector, merge=True)
    n = shorter["input_ids"].shape[1]
    assert torch.equal(model.generate(**shorter, **GREEDY)[:, n:], ids[:, -3:])


def test_needed_weights_come_from_the_call(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()

    def weigh(images):
        return [image.features.norm(dim=1) for image in images]

    with prune(model, Heaviest(4), weights=weigh) as run:
        model(**inputs)
    for item in run.last:
        largest = item.features.norm(dim=1).topk(4).indices.sort().values
        assert item.indices.equal(largest)
    for call in (
        lambda: prune(model, Heaviest(4)),
        lambda: otprune.enable(model, Heaviest(4)),
        lambda: Settings(Heaviest(4)),
        lambda: prune_inputs(model, inputs, Heaviest(4)),
    ):
        with pytest.raises(WeightError, match="Heaviest needs weights, one a token: pass weights="):
            call()
