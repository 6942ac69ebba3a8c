"""The with block: its report, and that it leaves the model unchanged."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from otprune import NormPrune, OTPrune, RandomPrune, Reduction, Selector, prune
from tests.families.base import IMAGE, VIDEO
from tests.families.tiny import FAMILIES

CORE = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SELECTOR = RandomPrune(0.4)
GREEDY = {"max_new_tokens": 3, "do_sample": False}


def state(model):
    """All attributes and hooks that a with block could leave on a model."""
    modules = list(model.modules())
    return (
        {name: id(value) for name, value in vars(model).items()},
        [set(vars(module)) for module in modules],
        [len(module._forward_pre_hooks) for module in modules],
        [len(module._forward_hooks) for module in modules],
    )


@pytest.mark.parametrize("name", CORE)
@torch.no_grad()
def test_the_model_is_restored_after_the_block(build, name):
    model, inputs = build(name), FAMILIES[name].inputs()
    expected = model.generate(**inputs, **GREEDY), model(**inputs).logits
    before = state(model)
    with prune(model, SELECTOR):
        assert state(model) != before
        model.generate(**inputs, **GREEDY)
        model(**inputs)
    assert state(model) == before
    assert torch.equal(model.generate(**inputs, **GREEDY), expected[0])
    assert torch.equal(model(**inputs).logits, expected[1])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_model_is_restored_after_an_exception(build, error):
    model = build("llava")
    before = state(model)
    with pytest.raises(error), prune(model, SELECTOR):
        raise error
    assert state(model) == before


@torch.no_grad()
def test_a_failed_call_does_not_affect_the_next(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()

    def fail(row, ids):
        raise RuntimeError

    with prune(model, SELECTOR) as run:
        expected = model.generate(**inputs, **GREEDY)
        with pytest.raises(RuntimeError):
            model.generate(**inputs, **GREEDY, prefix_allowed_tokens_fn=fail)
        with pytest.raises(ValueError, match="placeholders"):
            model(**inputs | {"pixel_values": inputs["pixel_values"][:1]})
        logits = model(**inputs).logits
        assert len(run.last) == 3
        assert torch.equal(model.generate(**inputs, **GREEDY), expected)
    with prune(model, SELECTOR):
        assert torch.equal(model(**inputs).logits, logits)


@torch.no_grad()
def test_an_instance_generate_is_restored(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    mine = partial(type(model).generate, model)
    model.generate = mine
    try:
        with prune(model, SELECTOR) as run:
            model.generate(**inputs, **GREEDY)
            assert len(run.last) == 3
        assert model.generate is mine
    finally:
        del model.generate


@torch.no_grad()
def test_the_inner_of_two_nested_blocks_applies(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    before = state(model)
    with prune(model, SELECTOR) as outer:
        inside = state(model)
        with prune(model, RandomPrune(3)) as inner:
            model(**inputs)
        assert (outer.last, {item.after for item in inner.last}) == (None, {3})
        assert state(model) == inside
        model(**inputs)
        assert {item.after for item in outer.last} == {6}
    assert state(model) == before


@torch.no_grad()
def test_two_models_at_once(build):
    one, other = build("llava"), build("qwen2_5_vl")
    with prune(one, SELECTOR) as first, prune(other, RandomPrune(3)) as second:
        one.generate(**FAMILIES["llava"].inputs(), **GREEDY)
        other.generate(**FAMILIES["qwen2_5_vl"].inputs(), **GREEDY)
    assert {item.after for item in first.last} == {6}
    assert {item.after for item in second.last} == {3}


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("selector", [RandomPrune(0.3), RandomPrune(5), NormPrune(1)], ids=repr)
@torch.no_grad()
def test_the_report(build, name, selector):
    family = FAMILIES[name]
    model, inputs = build(name), family.inputs(video=family.has_video)
    with prune(model, selector) as run:
        assert run.last is None
        model(**inputs)
        items = run.last
    seen = [(item.row, item.modality) for item in items]
    images = [(0, "image"), (1, "image"), (1, "image")]
    videos = [(row, "video") for row in range(3)] if family.has_video else []
    assert seen == sorted(images + videos)  # within a row the images come first
    for modality, token in (("image", IMAGE), ("video", VIDEO)):
        total = sum(item.before for item in items if item.modality == modality)
        assert total == int((inputs["input_ids"] == token).sum())
    for item in items:
        assert item.after == len(item.indices) == selector.count(item.before)
        assert torch.equal(item.indices, selector.select(item.features))
        assert item.features.shape == (item.before, 32)
        assert not item.features.requires_grad
        torch.testing.assert_close(item.masses.sum(), torch.tensor(1.0))
        assert item.seconds > 0


@torch.no_grad()
def test_anyres_newlines_are_counted_and_selected(build):
    model, inputs = build("llava_next"), FAMILIES["llava_next"].inputs(images=(1,))
    with prune(model, NormPrune(1.0)) as run:
        model(**inputs)
        (whole,) = run.last
    newline = model.model.image_newline
    rows = (whole.features == newline).all(dim=1).nonzero().flatten()
    assert len(rows) == 4  # one at the end of each row of the grid, after the overview's 16
    assert rows.tolist() == [16 + 8 * i + i - 1 for i in range(1, 5)]
    with prune(model, NormPrune(10)) as run:
        model(**inputs)
        (item,) = run.last
    assert (item.before, item.after) == (52, 10)  # newlines are counted, and may be dropped
    assert torch.equal(item.indices, NormPrune(10).select(whole.features))


@torch.no_grad()
def test_a_video_has_one_budget_over_its_frames(build):
    for name in ("qwen2_5_vl", "qwen3_vl"):  # Qwen3-VL puts text between the frames
        model, inputs = build(name), FAMILIES[name].inputs(images=(0,), video=True)
        with prune(model, NormPrune(5)) as run:
            model.generate(**inputs, **GREEDY)
        (item,) = run.last
        assert (item.modality, item.before, item.after) == ("video", 18, 5)


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("keep", [0.4, 1.0])
@torch.no_grad()
def test_images_are_encoded_once(build, name, keep):
    family = FAMILIES[name]
    model, inputs = build(name), family.inputs(images=(1, 1), video=family.has_video)
    tower = getattr(model.model, "vision_tower", None) or model.model.visual
    calls = []
    hook = tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        with prune(model, RandomPrune(keep)):
            model.generate(**inputs, **GREEDY, num_beams=2)
            generated = len(calls)
            model(**inputs)
    finally:
        hook.remove()
    assert generated == 1 + family.has_video  # once for images, once for videos
    assert len(calls) == 2 * generated


class Counting(RandomPrune):
    """Records the shapes of its arguments."""

    def reduce(self, tokens, merge=False, weights=None):
        SHAPES.append(tuple(tokens.shape))
        return super().reduce(tokens, merge, weights)


SHAPES: list[tuple[int, ...]] = []


@torch.no_grad()
def test_images_of_one_size_are_one_batch(build):
    SHAPES.clear()
    with prune(build("llava"), Counting(0.4)):
        build("llava")(**FAMILIES["llava"].inputs())
    assert SHAPES == [(3, 16, 32)]
    SHAPES.clear()
    with prune(build("qwen2_vl"), Counting(0.4)):
        build("qwen2_vl")(**FAMILIES["qwen2_vl"].inputs())
    assert SHAPES == [(16, 32), (12, 32), (6, 32)]


@torch.no_grad()
def test_unsorted_indices_are_refused(build):
    class Scrambled(RandomPrune):
        def reduce(self, tokens, merge=False, weights=None):
            made = super().reduce(tokens, merge, weights)
            return Reduction(made.indices.flip(-1), made.masses.flip(-1), made.features.flip(-2))

    with prune(build("llava"), Scrambled(0.4)), pytest.raises(ValueError, match="ascending"):
        build("llava")(**FAMILIES["llava"].inputs())


@torch.no_grad()
def test_any_object_with_reduce_is_a_selector(build):
    class Mine:
        def reduce(self, tokens, merge=False, weights=None):
            return OTPrune(4).reduce(tokens, merge, weights)

    assert not isinstance(Mine(), Selector)
    with prune(build("llava"), Mine()) as run:
        build("llava")(**FAMILIES["llava"].inputs())
    assert [item.after for item in run.last] == [4, 4, 4]
