"""The `weights` function of the caller: how much each visual token counts."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import otprune
from otprune import (
    Auto,
    Budget,
    DivPrune,
    OTPrune,
    OTPruneError,
    Settings,
    TransportPrune,
    UnsupportedError,
    WeightError,
    prune,
    prune_inputs,
    visual_tokens,
)
from tests.families.tiny import FAMILIES

NAMES = ("llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "idefics3")
GREEDY = {"max_new_tokens": 3, "do_sample": False}

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


def call_of(name, images=(1, 2, 0)):
    family = FAMILIES[name]
    return family.inputs(images, video=family.has_video)


class Random:
    """Different weights for each image, None for some; records its arguments."""

    def __init__(self, without=()):
        self.without = without
        self.asked = []

    def of(self, images):
        generator = torch.Generator().manual_seed(0)
        every = [torch.rand(len(x.features), generator=generator) for x in images]
        return [None if i in self.without else w for i, w in enumerate(every)]

    def __call__(self, images):
        self.asked.append(images)
        return self.of(images)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("method", [OTPrune, TransportPrune], ids=lambda c: c.name)
def test_kept_tokens_are_those_of_reduce_with_weights(build, name, merge, method):
    """For images of one size or of different sizes, and for videos."""
    model, inputs, weigh, selector = build(name), call_of(name), Random(without=[1]), method(0.4)
    with prune(model, selector, merge=merge, weights=weigh) as run:
        model(**inputs)
    assert len(run.last) >= 3
    differs = False
    for item, weights in zip(run.last, weigh.of(run.last), strict=True):
        wanted = selector.reduce(item.features, merge=merge, weights=weights)
        assert torch.equal(item.indices, wanted.indices)
        torch.testing.assert_close(item.masses, wanted.masses)
        differs |= not torch.equal(item.indices, selector.select(item.features))
    assert differs
    plain = prune_inputs(model, inputs, selector, positions="preserved", merge=merge)
    weighed = prune_inputs(
        model, inputs, selector, positions="preserved", merge=merge, weights=weigh
    )
    assert weighed["input_ids"].shape == plain["input_ids"].shape
    assert not torch.equal(weighed["position_ids"], plain["position_ids"])


@pytest.mark.parametrize("name", NAMES)
def test_the_function_is_called_once_with_the_visual_tokens(build, name):
    model, inputs, weigh = build(name), call_of(name), Random()
    wanted = visual_tokens(model, inputs)
    with torch.enable_grad(), prune(model, OTPrune(0.4), weights=weigh):
        model(**inputs)
        model.generate(**inputs, **GREEDY)
    assert len(weigh.asked) == 2
    for images in weigh.asked:
        for image, one in zip(images, wanted, strict=True):
            assert (image.modality, image.row, image.unit) == (one.modality, one.row, one.unit)
            assert torch.equal(image.features, one.features)
            assert not image.features.requires_grad


def test_the_only_token_of_positive_weight_is_kept(build):
    model, inputs = build("llava"), call_of("llava")
    with prune(model, TransportPrune(1), weights=lambda images: torch.eye(16)[[3, 15, 8]]) as run:
        model(**inputs)
    assert [item.indices.tolist() for item in run.last] == [[3], [15], [8]]


@pytest.mark.parametrize("keep", [Auto(0.2), Budget(0.4), Budget(9, floor=2)], ids=str)
def test_budget_and_auto_with_weights(build, keep):
    """A prompt's images share a budget, each with its own weights or none."""
    model, inputs, selector = build("qwen2_5_vl"), call_of("qwen2_5_vl"), TransportPrune(keep)
    weigh = Random(without=[2])
    with prune(model, selector, weights=weigh) as run:
        model(**inputs)
    weights = weigh.of(run.last)
    for row in range(3):
        of_row = [i for i, item in enumerate(run.last) if item.row == row]
        wanted = selector.select_each(
            [run.last[i].features for i in of_row], weights=[weights[i] for i in of_row]
        )
        for i, indices in zip(of_row, wanted, strict=True):
            assert torch.equal(run.last[i].indices, indices)


def test_weights_in_every_way_to_prune(build):
    model, inputs, weigh, selector = build("llava"), call_of("llava"), Random(), OTPrune(0.4)
    with prune(model, selector, weights=weigh) as run:
        wanted = model(**inputs).logits
    kept = [item.indices for item in run.last]
    with prune(model, Settings(selector, weights=weigh)):
        assert torch.equal(model(**inputs).logits, wanted)
    run = otprune.enable(model, selector, weights=weigh)
    try:
        assert torch.equal(model(**inputs).logits, wanted)
        assert all(map(torch.equal, [item.indices for item in run.last], kept))
        plain = model(**inputs, otprune=Settings(selector)).logits
        assert not torch.equal(plain, wanted)
        assert torch.equal(
            model(**inputs, otprune=Settings(selector, weights=weigh)).logits, wanted
        )
    finally:
        otprune.disable(model)
    assert torch.equal(
        model(**prune_inputs(model, inputs, selector, padding_side="left", weights=weigh)).logits,
        wanted,
    )
    with pytest.raises(OTPruneError, match="more arguments besides"):
        prune(model, Settings(selector), weights=weigh)


def test_equal_weights_or_none_equal_no_weights(build):
    model, inputs = build("llava_next"), call_of("llava_next")
    with prune(model, OTPrune(0.4)):
        plain = model(**inputs).logits
    for weigh in (
        lambda images: [None] * len(images),
        lambda images: [[7] * len(image.features) for image in images],
    ):
        with prune(model, OTPrune(0.4), weights=weigh):
            assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_weights_change_nothing_if_all_tokens_are_kept(build, name):
    model, inputs, weigh = build(name), call_of(name), Random()
    plain = model(**inputs).logits
    with prune(model, OTPrune(1.0), merge=True, mass="token", weights=weigh):
        assert torch.equal(model(**inputs).logits, plain)
    assert torch.equal(model(**inputs).logits, plain)
    assert len(weigh.asked) == 1


def test_a_function_that_makes_a_pruned_call_is_refused_and_an_unpruned_one_is_not(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs((1,))

    def weigh(images, **more):
        model(**inputs, **more)
        return [None]

    with otprune.prune(model, TransportPrune(4), weights=weigh):
        with pytest.raises(UnsupportedError, match="otprune=None"):
            model(**inputs)
        with pytest.raises(UnsupportedError, match="otprune=None"):  # nothing is left of the first
            model(**inputs)
    unpruned = partial(weigh, otprune=None)
    with otprune.prune(model, TransportPrune(4), weights=unpruned) as run:
        model(**inputs)
    assert run.last[0].after == 4


def test_the_function_is_not_called_without_images(build):
    inputs = FAMILIES["llava"].inputs(images=(0, 0))
    with prune(build("llava"), OTPrune(0.4), weights=lambda images: pytest.fail("asked")):
        build("llava")(**inputs)


def test_masses_are_weighted(build):
    """Tokens of mass 0 are hidden, and all results are finite."""
    model, inputs = build("llava"), call_of("llava")

    def first(images):
        return [[1.0] + [0.0] * 15 for _ in images]

    with prune(model, TransportPrune(4), mass="token", weights=first) as run:
        assert bool(model(**inputs).logits.isfinite().all())
    for item in run.last:
        assert item.masses.tolist() == [1.0, 0.0, 0.0, 0.0]


class Duck:
    """Has the method `reduce` of a selector, without weights."""

    def reduce(self, tokens, merge=False):
        return OTPrune(4).reduce(tokens, merge)


@pytest.mark.parametrize("selector", [DivPrune(0.4), Duck()], ids=["divprune", "duck"])
def test_a_method_that_uses_no_weights_is_refused_at_once(build, selector):
    model, inputs = build("llava"), call_of("llava")
    for call in (
        lambda: prune(model, selector, weights=Random()),
        lambda: otprune.enable(model, selector, weights=Random()),
        lambda: Settings(selector, weights=Random()),
        lambda: prune_inputs(model, inputs, selector, weights=Random()),
    ):
        with pytest.raises(WeightError, match=r"no meaning for weights: .*OTPrune, TransportPrune"):
            call()


@pytest.mark.parametrize("wrong", [torch.ones(16), [torch.ones(16)], 1.0, "cls"], ids=str)
def test_weights_must_be_a_function(build, wrong):
    with pytest.raises(OTPruneError, match=r"weights is a .*: expected a function of the call's"):
        prune(build("llava"), OTPrune(0.4), weights=wrong)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (None, "returned a NoneType: expected a list with one entry for each of 3 images"),
        ([torch.ones(16)] * 2, "returned 2 entries for 3 images"),
        ([torch.ones(16)] * 4, "returned 4 entries for 3 images"),
        (
            [None, torch.ones(15), None],
            r"weights\(images\)\[1\], image in sequence 1: weights have shape \(15,\): .*\(16,\)",
        ),
        ([torch.ones(1, 16)] * 3, r"\[0\], image in sequence 0: weights have shape \(1, 16\)"),
        ([None, None, -torch.ones(16)], r"\[2\], image in sequence 1: weights hold negative"),
        ([torch.zeros(16)] * 3, "all zero"),
        ([["a"] * 16] * 3, "not numbers"),
    ],
    ids=lambda x: "" if isinstance(x, str) else str(len(x or [])),
)
def test_weights_that_do_not_fit_the_images_are_refused(build, made, said):
    model, inputs = build("llava"), call_of("llava")
    with prune(model, OTPrune(0.4), weights=lambda images: made):
        for call in (model, model.generate):
            with pytest.raises(WeightError, match=said):
                call(**inputs)
    with pytest.raises(WeightError, match=said):
        prune_inputs(model, inputs, OTPrune(1.0), weights=lambda images: made)


@pytest.mark.parametrize("name", ["llava", "llava_next", "gemma3", "mistral3", "qwen3_vl"])
@pytest.mark.parametrize("keep", [0.4, 1.0])
def test_what_the_function_does_with_its_images_does_not_reach_the_model(build, name, keep):
    model, inputs, weigh = build(name), FAMILIES[name].inputs(), Random()
    with prune(model, OTPrune(keep), weights=weigh):
        wanted = model(**inputs).logits

    def careless(images):
        made = weigh.of(images)
        for image in images:
            image.features.sub_(image.features.mean(dim=0)).mul_(3)
        images.clear()
        return made

    with prune(model, OTPrune(keep), weights=careless):
        assert torch.equal(model(**inputs).logits, wanted)
