"""Padding sides, caches, half precision and gradients in every family."""

from __future__ import annotations

import pytest
import torch

from otprune import DivPrune, OTPrune, TransportPrune, prune, prune_inputs
from otprune.engines.transformers.versions import ROWWISE, installed

from .base import PAD, Inputs
from .reference import check_encoder_gradients
from .tiny import FAMILIES

BATCH = (1, 2, 0)
HALF = DivPrune(keep=0.5)
families = pytest.mark.parametrize("name", FAMILIES)
whole = pytest.mark.skipif(installed() < ROWWISE, reason="transformers itself is wrong here")


def right_padded(inputs: Inputs) -> Inputs:
    """The same call, padded on the right."""
    padding = (inputs["attention_mask"] == 0).sum(dim=1).tolist()
    shape = inputs["input_ids"].shape
    moved = dict(inputs)
    for name, value in inputs.items():
        if value.shape == shape:
            rows = [row.roll(-n) for row, n in zip(value, padding, strict=True)]
            moved[name] = torch.stack(rows)
    return moved


@families
@torch.no_grad()
def test_right_padding_gives_what_left_padding_gives(name: str) -> None:
    model, inputs = FAMILIES[name].model(), FAMILIES[name].inputs(BATCH)
    left = prune_inputs(model, inputs, HALF)
    right = prune_inputs(model, right_padded(inputs), HALF, padding_side="right")
    logits, moved = model(**left).logits, model(**right).logits
    assert bool((right["input_ids"][:, -1] == PAD).any())
    for b, mask in enumerate(left["attention_mask"]):
        n = int(mask.sum())
        torch.testing.assert_close(moved[b, :n], logits[b, -n:], rtol=0, atol=2e-4)


@families
@pytest.mark.parametrize(
    "cache",
    [
        {"cache_implementation": "static"},
        {"use_cache": False},
        pytest.param({"prefill_chunk_size": 7}, marks=whole),
    ],
    ids=lambda cache: next(iter(cache)),
)
@torch.no_grad()
def test_every_way_of_caching_gives_one_answer(name: str, cache: dict[str, object]) -> None:
    if name == "paligemma" and "prefill_chunk_size" in cache:
        pytest.skip("its prompt sees itself both ways: chunks answer otherwise, unpruned too")
    model, inputs = FAMILIES[name].model(), FAMILIES[name].inputs(BATCH)
    with prune(model, HALF):
        wanted = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        got = model.generate(**inputs, max_new_tokens=4, do_sample=False, **cache)
    assert torch.equal(got, wanted)


@families
@torch.no_grad()
def test_half_precision(name: str) -> None:
    model = FAMILIES[name].model().bfloat16()
    inputs = {
        key: value.bfloat16() if value.is_floating_point() else value
        for key, value in FAMILIES[name].inputs(BATCH).items()
    }
    plain = model(**inputs).logits
    with prune(model, OTPrune(keep=1.0)):
        assert torch.equal(model(**inputs).logits, plain)
    with prune(model, TransportPrune(keep=0.5), merge=True) as run:
        logits = model(**inputs).logits
    assert logits.dtype == torch.bfloat16
    assert bool(logits.isfinite().all())
    assert run.last is not None
    assert [item.features.dtype for item in run.last] == 3 * [torch.bfloat16]


@families
def test_gradients_flow_through_kept_tokens(name: str) -> None:
    family = FAMILIES[name]
    model, inputs = family.model(), family.inputs((1, 1))
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    if name == "paligemma":  # a prompt that sees itself has nothing to predict but a suffix
        inputs["token_type_ids"] = torch.ones_like(inputs["token_type_ids"])
    with prune(model, HALF):
        check_encoder_gradients(model, inputs, lambda given: model(**given, labels=labels).loss)
