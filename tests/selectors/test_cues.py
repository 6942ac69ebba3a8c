"""What a method may know besides the tokens: what it declares, what it gets, what is refused."""

from dataclasses import dataclass

import pytest
import torch

from otprune import (
    METHODS,
    Auto,
    CueError,
    Cues,
    EncoderStage,
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
        with pytest.raises(CueError, match="Salient needs grid and saliency: pass cues="):
            call()
    with pytest.raises(WeightError, match="Heaviest needs weights"):
        Heaviest(keep).select_each([X, X], weights=[W, None])
    with pytest.raises(WeightError, match="Salient has no meaning for weights"):
        Salient(keep).select(X, weights=W)


def test_an_engine_says_at_once_what_it_cannot_provide():
    Settings(Salient(0.1))
    with pytest.raises(UnsupportedError, match=r"grid and saliency.* cannot be provided inside an"):
        EncoderStage(selector=Salient(0.1))


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
    with pytest.raises(
        SelectorError, match=f"Own.{attribute} is .*weights, saliency, keys, encoded, question"
    ):
        type("Own", (Selector,), {attribute: wrong})


GIVEN = Cues(
    weights=W,
    saliency=W.double(),
    keys=torch.rand(20, 2, 3).numpy(),
    encoded=torch.rand(20, 5).half(),
    question=torch.rand(4, 6),
    grid=torch.zeros(20, 3, dtype=torch.int32),
)


@dataclass(frozen=True)
class Everything(Selector):
    """Asserts that it gets all cues as `Cues` says, and picks the first tokens."""

    needs = frozenset(CUES)

    def pick(self, tokens, k, cues):
        b = len(tokens)
        shapes = [(b, 20), (b, 20), (b, 20, 2, 3), (b, 20, 5), (b, 4, 6), (b, 20, 3)]
        assert [tuple(x.shape) for x in cues.given] == shapes
        assert {x.dtype for x in cues.given[:-1]} == {torch.float32}
        assert cues.grid.dtype == torch.int64
        return cues.saliency.argsort(dim=-1, descending=True)[:, :k]


@pytest.mark.parametrize("keep", [4, Auto(0.3), 1.0])
def test_every_cue_reaches_the_method(keep):
    for call in calls(Everything(keep), cues=GIVEN):
        call()
    stacked = Cues(*(torch.stack([torch.as_tensor(x)] * 2) for x in GIVEN.given))
    if keep == 4:
        best = W.topk(4).indices.sort().values
        assert Everything(4).select(torch.stack([X, X]), cues=stacked).equal(best.expand(2, -1))


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("saliency", torch.rand(19), r"saliency has shape \(19,\): expected \(m\) for"),
        ("saliency", -torch.rand(20), "saliency holds negative"),
        ("saliency", torch.full((20,), torch.nan), "saliency holds NaN or Inf"),
        ("saliency", torch.arange(20), "saliency has dtype torch.int64: expected real floating"),
        ("saliency", ["much"] * 20, "saliency is no array of numbers"),
        ("keys", torch.rand(20, 6), r"keys has shape \(20, 6\): expected \(m, heads, c\)"),
        ("question", torch.rand(4, 5), r"question has shape \(4, 5\): expected \(n, d\)"),
        ("question", torch.rand(2, 4, 6), r"expected \(n, d\)"),
        ("grid", torch.rand(20, 3), "grid has dtype torch.float32: expected whole numbers"),
        ("grid", torch.zeros(20, 2).long(), r"grid has shape \(20, 2\): expected \(m, 3\)"),
        ("weights", torch.rand(19), "weights have shape"),
    ],
)
def test_a_cue_that_does_not_fit_is_refused(name, wrong, says):
    cues = Cues(**{n: getattr(GIVEN, n) for n in CUES} | {name: wrong})
    with pytest.raises(CueError, match=says):
        Everything(4).select(X, cues=cues)


def test_cues_for_several_sets_are_a_list():
    for wrong, says in (
        (GIVEN, "cues is one Cues for several sets"),
        ([GIVEN], "cues for 1 sets, and there are 2"),
        ([GIVEN, {}], "cues is a dict"),
    ):
        with pytest.raises(CueError, match=says):
            Everything(4).select_each([X, X], cues=wrong)
    with pytest.raises(WeightError, match="weights are given twice"):
        Everything(4).select(X, weights=W, cues=GIVEN)


def test_a_cue_that_is_not_used_is_refused():
    with pytest.raises(CueError, match="Heaviest does not use saliency: leave it out"):
        Heaviest(3).select(X, cues=Cues(weights=W, saliency=W))
    assert (
        Heaviest(3)
        .select(X, cues=GIVEN.only(Heaviest.uses))
        .equal(Heaviest(3).select(X, weights=W))
    )


def test_questions_of_different_lengths_in_sets_of_one_size():
    @dataclass(frozen=True)
    class Words(Selector):
        needs = frozenset({"question"})

        def pick(self, tokens, k, cues):
            first = cues.question.shape[1]
            return torch.arange(first, first + k).expand(len(tokens), k)

    cues = [Cues(question=torch.rand(n, 6)) for n in (0, 3)]
    kept = Words(2).select_each([X, X], cues=cues)
    assert [x.tolist() for x in kept] == [[0, 1], [3, 4]]


def test_methods_of_the_package_use_cues_that_exist():
    for method in METHODS.values():
        assert method.needs <= method.uses <= set(CUES)


def test_cues_that_are_changed_or_joined_keep_their_fields():
    cues = Cues(weights=torch.ones(2, 3), grid=torch.zeros(2, 3, 2).long())
    first, last = (cues.each(lambda x, b=b: x[b : b + 1]) for b in (0, 1))
    joined = Cues.joined([first, last])
    for name in CUES:
        whole, again = getattr(cues, name), getattr(joined, name)
        assert (whole is None) == (again is None)
        assert whole is None or whole.equal(again)
