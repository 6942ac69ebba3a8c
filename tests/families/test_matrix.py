"""Every family, attention implementation and position scheme, compared with the reference."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from otprune import (
    METHODS,
    Auto,
    Budget,
    DivPrune,
    GridPrune,
    NormPrune,
    OTPrune,
    Selector,
    TransportPrune,
    count,
    prune,
    prune_inputs,
)
from otprune.engines.transformers import Pruned
from otprune.engines.transformers.versions import ROWWISE, installed

from .base import IMAGE, VIDEO, Inputs, images_in
from .reference import entering, reference_logits
from .tiny import FAMILIES

BATCH = (1, 2, 0)
TOLERANCE = 2e-4
STEPS = 4

families = pytest.mark.parametrize("name", FAMILIES)
attentions = pytest.mark.parametrize("attn", ["sdpa", "eager"])
schemes = pytest.mark.parametrize("positions", ["preserved", "compact"])
with_video = pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.has_video])


@functools.cache
def tiny(name: str, attn: str = "sdpa") -> PreTrainedModel:
    return FAMILIES[name].model(attn)


@torch.no_grad()
def answer(model: PreTrainedModel, inputs: Inputs) -> tuple[Tensor, list[Tensor], int]:
    """Greedy `(B, S + STEPS)` ids, the logits of every step, and the length of the cache."""
    out = model.generate(
        **inputs,
        max_new_tokens=STEPS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return out.sequences, list(out.logits), out.past_key_values.get_seq_length()


def surviving(inputs: Inputs, items: list[Pruned]) -> Tensor:
    """`(B, S)`: True except at the placeholders that the engine reports as dropped."""
    keep = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    for image, item in zip(images_in(inputs["input_ids"]), items, strict=True):
        assert (item.modality, item.row) == (image.modality, image.row)
        assert item.before == len(image.columns)
        keep[image.row, image.columns] = False
        keep[image.row, image.columns[item.indices]] = True
    return keep


def check_against_reference(
    model: PreTrainedModel, inputs: Inputs, selector: Selector, positions: str
) -> None:
    with torch.no_grad(), prune(model, selector, positions) as run:
        sequences, steps, cached = answer(model, inputs)
        assert run.last is not None
        items = run.last
        forward = model(**inputs)
        without_cache = model(**inputs, use_cache=False).logits
    keep = surviving(inputs, items)
    prompt = inputs["input_ids"].shape[1]
    assert torch.equal(sequences[:, :prompt], inputs["input_ids"])
    longest = int((keep & inputs["attention_mask"].bool()).sum(dim=1).max())
    assert longest < prompt
    assert cached == longest + STEPS - 1
    assert forward.past_key_values.get_seq_length() == longest

    wanted = reference_logits(model, inputs, keep, positions, sequences[:, prompt:-1])
    for b, logits in enumerate(wanted):
        n = len(logits) - (STEPS - 1)
        close = functools.partial(torch.testing.assert_close, rtol=0, atol=TOLERANCE)
        close(forward.logits[b, -n:], logits[:n])
        close(without_cache[b, -n:], logits[:n])
        close(torch.stack([step[b] for step in steps]), logits[n - 1 :])


@families
@attentions
def test_keeping_everything_changes_no_bit(name: str, attn: str) -> None:
    model, inputs = tiny(name, attn), FAMILIES[name].inputs(BATCH)
    with torch.no_grad():
        plain, (ids, logits, cached) = model(**inputs).logits, answer(model, inputs)
        with prune(model, OTPrune(keep=1.0)):
            assert torch.equal(model(**inputs).logits, plain)
            pruned_ids, pruned_logits, pruned_cached = answer(model, inputs)
    assert torch.equal(pruned_ids, ids)
    assert all(torch.equal(a, b) for a, b in zip(logits, pruned_logits, strict=True))
    assert cached == pruned_cached


@families
@attentions
@schemes
def test_pruned_is_the_prompt_without_the_dropped_tokens(
    name: str, attn: str, positions: str
) -> None:
    check_against_reference(
        tiny(name, attn), FAMILIES[name].inputs(BATCH), DivPrune(keep=0.5), positions
    )


@families
@schemes
@pytest.mark.parametrize("images", [(1,), (2,)], ids=["one", "two"])
def test_a_single_row_without_padding(name: str, positions: str, images: tuple[int, ...]) -> None:
    """transformers drops a mask that hides nothing: step by step against teacher forcing."""
    model, inputs = tiny(name), FAMILIES[name].inputs(images)
    assert bool(inputs["attention_mask"].all())
    check_against_reference(model, inputs, DivPrune(keep=0.5), positions)
    del inputs["attention_mask"]
    with torch.no_grad(), prune(model, DivPrune(keep=0.5), positions):  # type: ignore[arg-type]
        unmasked = answer(model, inputs)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad(), prune(model, DivPrune(keep=0.5), positions):  # type: ignore[arg-type]
        masked = answer(model, inputs)
    assert torch.equal(unmasked[0], masked[0])


@with_video
@attentions
@schemes
def test_video(name: str, attn: str, positions: str) -> None:
    model = tiny(name, attn)
    for images in ((1, 0), (0, 0)):
        inputs = FAMILIES[name].inputs(images, video=True)
        check_against_reference(model, inputs, DivPrune(keep=0.5), positions)


@with_video
@attentions
def test_keeping_everything_of_a_video_changes_no_bit(name: str, attn: str) -> None:
    model, inputs = tiny(name, attn), FAMILIES[name].inputs((1, 0), video=True)
    with torch.no_grad():
        plain, (ids, logits, _) = model(**inputs).logits, answer(model, inputs)
        with prune(model, OTPrune(keep=1.0)):
            assert torch.equal(model(**inputs).logits, plain)
            pruned_ids, pruned_logits, _ = answer(model, inputs)
    assert torch.equal(pruned_ids, ids)
    assert all(torch.equal(a, b) for a, b in zip(logits, pruned_logits, strict=True))


@families
@pytest.mark.parametrize("images", [BATCH, (3,)])
def test_an_integer_keep_applies_to_each_image(name: str, images: tuple[int, ...]) -> None:
    """Whatever its tiles, and whatever entries the encoder returns for the images of a sequence."""
    family = FAMILIES[name]
    model, inputs = tiny(name), family.inputs(images, video=family.has_video)
    with torch.no_grad(), prune(model, DivPrune(keep=5)) as run:
        model(**inputs)
    assert run.last is not None
    assert [item.after for item in run.last] == [5] * len(images_in(inputs["input_ids"]))
    surviving(inputs, run.last)


@families
def test_the_selector_sees_each_image_whole(name: str) -> None:
    """Kept indices equal those of the selector for the features at that image's placeholders."""
    family, selector = FAMILIES[name], DivPrune(keep=0.4)
    model, inputs = tiny(name), family.inputs(BATCH, video=family.has_video)
    embeds = entering(model, inputs)["inputs_embeds"]
    with torch.no_grad(), prune(model, selector) as run:
        model(**inputs)
    assert run.last is not None
    for image, item in zip(images_in(inputs["input_ids"]), run.last, strict=True):
        features = embeds[image.row, image.columns]
        assert torch.equal(item.features, features)
        assert torch.equal(item.indices, selector.select(features))


@families
def test_only_placeholders_are_dropped(name: str) -> None:
    """Separators, tile marks, line breaks and delimiters stay, in order."""
    family = FAMILIES[name]
    model, inputs = tiny(name), family.inputs(BATCH, video=family.has_video)
    with torch.no_grad():
        shorter = prune_inputs(model, inputs, GridPrune(keep=3))
    ids = inputs["input_ids"]
    seen = torch.ones_like(ids, dtype=torch.bool)
    for image in images_in(ids):
        seen[image.row, image.columns] = False
    for b, row in enumerate(shorter["input_ids"]):
        text = ids[b][seen[b] & inputs["attention_mask"][b].bool()]
        left = row[shorter["attention_mask"][b].bool()]
        counts = [3 for p in images_in(ids) if p.row == b]
        assert len(left) == len(text) + sum(counts)
        assert left[(left != IMAGE) & (left != VIDEO)].tolist() == text.tolist()


@pytest.mark.parametrize(("name", "lines"), [("llava_next", 4), ("llava_onevision", 4)])
def test_anyres_newlines_are_tokens_of_their_image(name: str, lines: int) -> None:
    """They count as tokens and may be dropped, and the report shows which were kept."""
    model, inputs = tiny(name), FAMILIES[name].inputs((1,))
    newline = model.model.image_newline
    with torch.no_grad(), prune(model, NormPrune(keep=0.5)) as run:
        model(**inputs)
    assert run.last is not None
    (item,) = run.last
    at = (item.features == newline).all(dim=1).nonzero()[:, 0]
    assert len(at) == lines
    assert item.before == len(images_in(inputs["input_ids"])[0].columns)
    shortest = item.features.norm(dim=1)[item.indices].min()
    assert all((i in item.indices) == (newline.norm() >= shortest) for i in at)


@families
@pytest.mark.parametrize("method", METHODS)
def test_every_method(name: str, method: str) -> None:
    model, inputs = tiny(name), FAMILIES[name].inputs((1, 1))
    selector = METHODS[method](0.3)
    with torch.no_grad(), prune(model, selector) as run:
        logits = model(**inputs).logits
    assert run.last is not None
    assert [item.after for item in run.last] == [selector.count(i.before) for i in run.last]
    assert bool(logits.isfinite().all())


@families
@pytest.mark.parametrize("keep", [Auto(0.3, max_keep=0.9), Budget(0.3)], ids=["auto", "budget"])
def test_images_keep_different_numbers(name: str, keep: Auto | Budget) -> None:
    """A `Budget` applies to the images and videos of each prompt, whatever else is in the batch."""
    family, selector = FAMILIES[name], TransportPrune(keep)
    model, inputs = tiny(name), family.inputs(BATCH, video=family.has_video)
    check_against_reference(model, inputs, selector, "preserved")
    with torch.no_grad(), prune(model, selector, merge=True) as run:
        model(**inputs)
    assert run.last is not None
    for row in {item.row for item in run.last}:
        items = [item for item in run.last if item.row == row]
        wanted = selector.select_each([item.features for item in items])
        assert all(torch.equal(i.indices, w) for i, w in zip(items, wanted, strict=True))
        if isinstance(keep, Budget):
            tokens = sum(item.before for item in items)
            assert sum(item.after for item in items) == count(keep.total, tokens)


@families
def test_merged_features_enter_the_language_model(name: str) -> None:
    model, inputs = tiny(name), FAMILIES[name].inputs((1, 1))
    selector = OTPrune(keep=0.3)
    with torch.no_grad(), prune(model, selector, merge=True) as run:
        embeds = entering(model, inputs)["inputs_embeds"]
        assert run.last is not None
        shorter = prune_inputs(model, inputs, selector, merge=True)["input_ids"]
        kept = [embeds[image.row, image.columns] for image in images_in(shorter)]
    for item, features in zip(run.last, kept, strict=True):
        wanted = selector.reduce(item.features, merge=True).features
        torch.testing.assert_close(features, wanted, rtol=0, atol=1e-6)
        assert not torch.equal(features, item.features[item.indices])


@pytest.mark.skipif(installed() < ROWWISE, reason="transformers mixes up several images of a row")
@families
@pytest.mark.parametrize("keep", [0.5, Auto(0.3, max_keep=0.9)], ids=["half", "auto"])
def test_beam_scores_equal_the_reference(name: str, keep: float | Auto) -> None:
    """Images stay with their sequence when generate() repeats them for beams."""
    model, inputs = tiny(name), FAMILIES[name].inputs(BATCH)
    with torch.no_grad(), prune(model, DivPrune(keep), "preserved") as run:
        out = model.generate(
            **inputs,
            max_new_tokens=STEPS,
            num_beams=2,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    assert run.last is not None
    ids = out.sequences[:, inputs["input_ids"].shape[1] :]
    wanted = reference_logits(model, inputs, surviving(inputs, run.last), "preserved", ids[:, :-1])
    for b, logits in enumerate(wanted):
        scores = logits[-STEPS:].log_softmax(dim=-1).gather(1, ids[b][:, None]).sum()
        torch.testing.assert_close(out.sequences_scores[b], scores, rtol=0, atol=TOLERANCE)
