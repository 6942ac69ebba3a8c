"""What a method may know besides the tokens: what it declares, what it gets, what is refused."""

from dataclasses import dataclass

import pytest
import torch

from otprune import (
    METHODS,
    Auto,
    Cues,
    Selector,
    SelectorError,
    Settings,
    UnsupportedError,
    WeightError,
)
from otprune.selectors.cues import CUES
from tests.random_tokens import random_tokens

X = random_tokens(20, 6)
W = torch.rand(20, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Heaviest(Selector):
    """The tokens of largest weight."""

    needs = frozenset({"weights"})

    def pick(self, tokens, k, cues):
        return cues.weights.argsort(dim=-1, descending=True)[:, :k]


@dataclass(frozen=True)
class Salient(Selector):
    needs = frozenset({"saliency", "grid"})

    def pick(self, tokens, k, cues):
        raise AssertionError("asked without what it needs")


def calls(selector, **more):
    """Every way to ask a selector about tokens."""
    each = {name: [value, value] for name, value in more.items()}
    return (
        lambda: selector.select(X, **more),
        lambda: selector.reduce(X, **more),
        lambda: selector.explain(X, **more),
        lambda: selector.select_each([X, X], **each),
        lambda: selector.reduce_each([X, X], **each),
    )


def test_what_is_needed_is_used():
    assert Heaviest.uses == Heaviest.needs == {"weights"}
    assert Heaviest(3).select(X, weights=W).equal(W.topk(3).indices.sort().values)


@pytest.mark.parametrize("keep", [3, 1.0, Auto(0.2)])
def test_nothing_runs_without_what_is_needed(keep):
    for call in calls(Heaviest(keep)):
        with pytest.raises(WeightError, match="Heaviest needs weights, one a token"):
            call()
    for call in calls(Salient(keep)):
        with pytest.raises(UnsupportedError, match="Salient needs grid and saliency, which cannot"):
            call()
    with pytest.raises(WeightError, match="Heaviest needs weights"):
        Heaviest(keep).select_each([X, X], weights=[W, None])
    with pytest.raises(WeightError, match="Salient has no meaning for weights"):
        Salient(keep).select(X, weights=W)


def test_an_engine_says_at_once_what_it_cannot_provide():
    with pytest.raises(UnsupportedError, match="cannot be provided by the engine for transformers"):
        Settings(Salient(0.1))


@pytest.mark.parametrize("keep", [5, Auto(0.3)])
def test_every_way_of_asking_hands_the_weights_over(keep):
    """Of mean 1, float32, `(B, m)`: also of each row of a batch, and under a rule."""
    seen = []

    @dataclass(frozen=True)
    class Watch(Selector):
        uses = frozenset({"weights"})

        def pick(self, tokens, k, cues):
            seen.append(cues)
            assert cues.weights.shape == tokens.shape[:2]
            assert cues.weights.dtype == torch.float32
            return torch.arange(k).expand(len(tokens), k)

    for call in calls(Watch(keep), weights=W):
        seen.clear()
        call()
        assert seen
        for cues in seen:
            torch.testing.assert_close(cues.weights, (W / W.mean())[None])
            assert cues.saliency is cues.question is cues.grid is None
    if keep == 5:
        seen.clear()
        Watch(keep).select(torch.stack([X, X]), weights=torch.stack([W, W.flip(0)]))
        rows = torch.cat([cues.weights for cues in seen])
        torch.testing.assert_close(rows, torch.stack([W, W.flip(0)]) / W.mean())


@pytest.mark.parametrize("wrong", [{"weight"}, "weights", frozenset({"weights", "text"})])
@pytest.mark.parametrize("attribute", ["uses", "needs"])
def test_a_cue_that_does_not_exist_is_refused_with_the_class(attribute, wrong):
    with pytest.raises(SelectorError, match=f"Own.{attribute} is .*weights, saliency, question"):
        type("Own", (Selector,), {attribute: wrong})


def test_methods_of_the_package_do_without_cues():
    for method in METHODS.values():
        assert not method.needs
        assert method.uses <= set(CUES)


def test_cues_that_are_changed_or_joined_keep_their_fields():
    cues = Cues(weights=torch.ones(2, 3), grid=torch.zeros(2, 3, 2).long())
    first, last = (cues.each(lambda x, b=b: x[b : b + 1]) for b in (0, 1))
    joined = Cues.joined([first, last])
    for name in CUES:
        whole, again = getattr(cues, name), getattr(joined, name)
        assert (whole is None) == (again is None)
        assert whole is None or whole.equal(again)
