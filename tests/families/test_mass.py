"""Attention mass in every family: a mass of n equals n copies that attend to each other."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from otprune import TransportPrune, prune
from otprune.engines.transformers import Pruned
from otprune.engines.transformers.versions import ROWWISE, installed

from .base import Inputs, images_in
from .reference import reference_logits
from .test_calls import right_padded
from .test_matrix import BATCH, STEPS, answer, attentions, families, surviving, tiny
from .tiny import FAMILIES

slowly = functools.partial(pytest.param, marks=pytest.mark.slow)
SELECTOR = TransportPrune(0.3)
# Logits are about 10 in float32, and sums over copies are added in another order.
close = functools.partial(torch.testing.assert_close, rtol=0, atol=5e-5)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def spread(inputs: Inputs, items: list[Pruned], values: list[Tensor], text: float) -> Tensor:
    """`(B, S)`: a value for each kept token, 0 for those that were dropped, `text` for text."""
    whole = torch.full(inputs["input_ids"].shape, text)
    for image, item, value in zip(images_in(inputs["input_ids"]), items, values, strict=True):
        whole[image.row, image.columns] = 0.0
        whole[image.row, image.columns[item.indices]] = value
    return whole


def copies(inputs: Inputs, items: list[Pruned]) -> Tensor:
    """`(B, S)` int: how many tokens each token of the prompt stands for."""
    numbers = [item.masses * item.before for item in items]
    whole = spread(inputs, items, numbers, text=1.0)
    assert float((whole - whole.round()).abs().max()) < 1e-4
    assert int(whole.max()) > 1
    return whole.round().long()


def check(
    model: PreTrainedModel, inputs: Inputs, mass: str, alpha: float, positions: str
) -> list[Pruned]:
    """Compare every token with the reference: in the forward pass, and in each decoding step."""
    with prune(model, SELECTOR, positions, mass=mass, alpha=alpha) as run:  # type: ignore[arg-type]
        sequences, steps, _ = answer(model, inputs)
        items = run.last or []
        whole = model(**inputs).logits
        without_cache = model(**inputs, use_cache=False).logits
    said = sequences[:, inputs["input_ids"].shape[1] : -1]
    if (mass, alpha) == ("token", 1.0):
        wanted = reference_logits(model, inputs, copies(inputs, items), positions, said)
    else:
        numbers = [
            item.masses * item.before
            if mass == "token"
            else torch.full((item.after,), item.before / item.after)
            for item in items
        ]
        added = spread(inputs, items, [alpha * n.log() for n in numbers], text=0.0)
        keep = surviving(inputs, items)
        wanted = reference_logits(model, inputs, keep, positions, said, added)
    for b, logits in enumerate(wanted):
        n = len(logits) - (STEPS - 1)
        close(whole[b, -n:], logits[:n])
        close(without_cache[b, -n:], logits[:n])
        close(torch.stack([step[b] for step in steps]), logits[n - 1 :])
    return items


@families
@attentions
def test_a_mass_equals_copies_of_the_token(name: str, attn: str) -> None:
    family = FAMILIES[name]
    check(tiny(name, attn), family.inputs(BATCH, video=family.has_video), "token", 1.0, "preserved")


@families
@pytest.mark.parametrize("attn", ["sdpa", slowly("eager")])
@pytest.mark.parametrize(("mass", "alpha"), [("total", 0.5), slowly("token", 0.5)])
def test_every_alpha_equals_a_bias_in_the_mask(
    name: str, attn: str, mass: str, alpha: float
) -> None:
    check(tiny(name, attn), FAMILIES[name].inputs(BATCH), mass, alpha, "compact")


def test_total_equals_the_same_number_of_copies_for_each_token() -> None:
    model, inputs = tiny("llava"), FAMILIES["llava"].inputs(BATCH)
    with prune(model, TransportPrune(4), mass="total") as run:
        logits = model(**inputs).logits
    items = run.last or []
    fours = [torch.full((4,), 4.0)] * len(items)  # 4 of 16 tokens are kept
    keep = spread(inputs, items, fours, text=1.0).long()
    answer = torch.zeros(3, 0, dtype=torch.long)
    for b, wanted in enumerate(reference_logits(model, inputs, keep, "preserved", answer)):
        close(logits[b, -len(wanted) :], wanted)


@families
def test_every_way_of_caching_gives_one_answer(name: str) -> None:
    model, inputs = tiny(name), FAMILIES[name].inputs(BATCH)
    ways: list[dict[str, object]] = [{"cache_implementation": "static"}, {"use_cache": False}]
    # Chunked prefill changes PaliGemma's answers without pruning, too.
    if installed() >= ROWWISE and name != "paligemma":
        ways.append({"prefill_chunk_size": 7})
    with prune(model, SELECTOR, mass="token"):
        wanted = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        for way in ways:
            got = model.generate(**inputs, max_new_tokens=4, do_sample=False, **way)
            assert torch.equal(got, wanted), way


@pytest.mark.skipif(installed() < ROWWISE, reason="transformers mixes up several images of a row")
@families
def test_masses_follow_their_beams(name: str) -> None:
    model, inputs = tiny(name), FAMILIES[name].inputs(BATCH)
    with prune(model, SELECTOR, mass="token") as run:
        out = model.generate(
            **inputs,
            max_new_tokens=STEPS,
            num_beams=3,
            num_return_sequences=2,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    ids = out.sequences[:, inputs["input_ids"].shape[1] :]
    times = copies(inputs, run.last or [])
    for beam in range(2):
        said = ids[beam::2]
        wanted = reference_logits(model, inputs, times, "preserved", said[:, :-1])
        for b, logits in enumerate(wanted):
            score = logits[-STEPS:].log_softmax(dim=-1).gather(1, said[b][:, None]).sum()
            close(out.sequences_scores[2 * b + beam], score)


@families
@pytest.mark.parametrize("images", [(1,), (2,)], ids=["one", "two"])
def test_a_single_row_without_padding(name: str, images: tuple[int, ...]) -> None:
    """transformers makes no mask here except for the bias, and each step must have the mass."""
    check(tiny(name), FAMILIES[name].inputs(images), "token", 1.0, "preserved")


@families
def test_padding_may_be_on_either_side(name: str) -> None:
    model, left = tiny(name), FAMILIES[name].inputs(BATCH)
    right = right_padded(left)
    found = []
    with prune(model, SELECTOR, mass="token") as run:
        for inputs in (left, right):
            logits, columns = model(**inputs).logits, run.columns
            assert columns is not None
            seen = inputs["attention_mask"].gather(1, columns.clamp(min=0)).bool() & (columns >= 0)
            found.append([row[at] for row, at in zip(logits, seen, strict=True)])
    for wanted, moved in zip(*found, strict=True):
        close(moved, wanted)


@families
@pytest.mark.parametrize("attn", ["sdpa", slowly("eager")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, slowly(torch.float16)], ids=str)
def test_half_precision(name: str, attn: str, dtype: torch.dtype) -> None:
    """Nothing overflows, and keeping everything changes no bit."""
    model = FAMILIES[name].model(attn).to(dtype)
    inputs = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in FAMILIES[name].inputs(BATCH).items()
    }
    plain = model(**inputs).logits
    with prune(model, TransportPrune(keep=1.0), mass="token"):
        assert torch.equal(model(**inputs).logits, plain)
    with prune(model, SELECTOR, mass="token"):
        assert bool(answer(model, inputs)[1][-1].isfinite().all())
        heavy = model(**inputs).logits
    with prune(model, SELECTOR):
        assert not torch.equal(model(**inputs).logits, heavy)
