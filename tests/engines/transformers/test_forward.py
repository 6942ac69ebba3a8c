"""model(...) by hand: losses, gradients, decoding loops, either padding, arguments by position."""

from __future__ import annotations

import pytest
import torch

from otprune import NormPrune, RandomPrune, TransportPrune
from otprune.engines.transformers import prune
from tests.engines.transformers.kept import NOTHING, TOLERANCE, kept_columns
from tests.families.base import BOS, IMAGE, PAD
from tests.families.reference import check_encoder_gradients, entering, reference_logits
from tests.families.tiny import FAMILIES

CORE = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SELECTOR = RandomPrune(0.4)


def right_padded(inputs):
    """The same batch, padded on the right."""
    mask = inputs["attention_mask"]
    order = torch.argsort(1 - mask, dim=1, stable=True)
    moved = {
        key: value.gather(1, order) if value.shape == mask.shape else value
        for key, value in inputs.items()
    }
    assert (moved["attention_mask"][:, -1] == 0).any()
    return moved


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("positions", ["preserved", "compact"])
@torch.no_grad()
def test_right_padding_is_kept(build, name, positions):
    model, inputs = build(name), right_padded(FAMILIES[name].inputs())
    with prune(model, SELECTOR, positions=positions) as run:
        logits = model(**inputs).logits
    keep = kept_columns(inputs, run.last)
    for row, expected in enumerate(reference_logits(model, inputs, keep, positions, NOTHING)):
        columns = run.columns[row]
        tokens = (columns >= 0) & keep[row][columns]
        assert columns[tokens].tolist() == keep[row].nonzero()[:, 0].tolist()
        torch.testing.assert_close(logits[row, tokens], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("positions", ["preserved", "compact"])
@pytest.mark.parametrize("mask", ["none", "of the full prompt", "of the pruned prompt"])
@torch.no_grad()
def test_decoding_by_hand_equals_generate(build, name, positions, mask):
    model = build(name)
    inputs = FAMILIES[name].inputs(images=(1,) if mask == "none" else (1, 2, 0))
    n, rows = inputs["input_ids"].shape[1], len(inputs["input_ids"])
    with prune(model, SELECTOR, positions=positions) as run:
        answer = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        out = model(**inputs)
        report = run.last
        pruned = out.logits.shape[1]
        for step in range(3):
            whole = torch.cat([inputs["attention_mask"], torch.ones(rows, step + 1)], 1).long()
            given = {
                "none": {},
                "of the full prompt": {"attention_mask": whole},
                "of the pruned prompt": {
                    "attention_mask": torch.cat(
                        [
                            kept_mask(kept_columns(inputs, report), pruned),
                            torch.ones(rows, step + 1).long(),
                        ],
                        dim=1,
                    )
                },
            }[mask]
            out = model(
                input_ids=answer.sequences[:, n + step : n + step + 1],
                past_key_values=out.past_key_values,
                **given,
            )
            torch.testing.assert_close(
                out.logits[:, -1], answer.logits[step + 1], rtol=0, atol=TOLERANCE
            )
        assert run.last is report  # a decoding step does not change the report


def kept_mask(keep, n):
    number = keep.sum(dim=1, keepdim=True)
    return (torch.arange(n) >= n - number).long()


@torch.no_grad()
def test_decoding_by_hand_after_right_padding(build):
    model, inputs = build("llava"), right_padded(FAMILIES["llava"].inputs())
    step = torch.full((3, 1), 40)
    mask = torch.cat([inputs["attention_mask"], torch.ones(3, 1).long()], dim=1)
    with prune(model, SELECTOR, positions="preserved") as run:
        out = model(**inputs)
        keep = kept_columns(inputs, run.last)
        last = model(input_ids=step, past_key_values=out.past_key_values, attention_mask=mask)
    for row, expected in enumerate(reference_logits(model, inputs, keep, "preserved", step)):
        torch.testing.assert_close(last.logits[row, -1], expected[-1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", CORE)
@torch.no_grad()
def test_the_loss_is_that_of_the_text(build, name):
    model, inputs = build(name), FAMILIES[name].inputs()
    ids = inputs["input_ids"]
    labels = ids.masked_fill((ids >= IMAGE) | (ids == PAD) | (ids == BOS), -100)
    with prune(model, SELECTOR, positions="preserved") as run:
        loss = model(**inputs, labels=labels).loss
    keep = kept_columns(inputs, run.last)
    logits = reference_logits(model, inputs, keep, "preserved", NOTHING)
    said = [labels[row, keep[row]] for row in range(len(ids))]
    expected = torch.nn.functional.cross_entropy(
        torch.cat([x[:-1] for x in logits]), torch.cat([x[1:] for x in said])
    )
    torch.testing.assert_close(loss, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("merge", [False, True])
def test_gradients_reach_the_encoder(merge):
    model = FAMILIES["llava"].model().train()
    inputs = FAMILIES["llava"].inputs(images=(1,))
    labels = inputs["input_ids"]
    with prune(model, TransportPrune(0.4), merge=merge):
        check_encoder_gradients(model, inputs, lambda given: model(**given, labels=labels).loss)


@pytest.mark.parametrize("name", CORE)
@torch.no_grad()
def test_positional_arguments_follow_the_signature(build, name):
    # LLaVA takes (input_ids, pixel_values, mask), LLaVA-NeXT has sizes in between.
    model, inputs = build(name), FAMILIES[name].inputs()
    order = {
        "llava": ("input_ids", "pixel_values", "attention_mask"),
        "llava_next": ("input_ids", "pixel_values", "image_sizes", "attention_mask"),
    }.get(name, ("input_ids", "attention_mask"))
    rest = {key: value for key, value in inputs.items() if key not in order}
    with prune(model, SELECTOR):
        expected = model(**inputs).logits
        assert torch.equal(model(*[inputs[key] for key in order], **rest).logits, expected)


@pytest.mark.parametrize("name", CORE)
@torch.no_grad()
def test_neither_mask_nor_cache_is_needed(build, name):
    model, inputs = build(name), FAMILIES[name].inputs(images=(2,))
    with prune(model, SELECTOR):
        expected = model(**inputs).logits
        del inputs["attention_mask"]
        logits = model(**inputs, use_cache=False).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_outputs_as_a_tuple(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    with prune(model, SELECTOR):
        expected = model(**inputs)
        logits, cache = model(**inputs, return_dict=False)[:2]
        assert torch.equal(logits, expected.logits)
        step = torch.full((3, 1), 40)
        a = model(input_ids=step, past_key_values=cache)
        b = model(input_ids=step, past_key_values=expected.past_key_values)
        assert torch.equal(a.logits, b.logits)


@torch.no_grad()
def test_hidden_states_and_attentions_have_the_pruned_length(build):
    model, inputs = build("llava", "eager"), FAMILIES["llava"].inputs()
    with prune(model, SELECTOR) as run:
        out = model(**inputs, output_hidden_states=True, output_attentions=True)
    n = int(kept_columns(inputs, run.last).sum(dim=1).max())
    assert {x.shape[1] for x in out.hidden_states} == {n}
    assert {x.shape[-2:] for x in out.attentions} == {(n, n)}


@torch.no_grad()
def test_logits_to_keep_counts_from_the_end(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    with prune(model, SELECTOR):
        torch.testing.assert_close(
            model(**inputs, logits_to_keep=3).logits, model(**inputs).logits[:, -3:]
        )


@pytest.mark.parametrize("name", CORE)
@torch.no_grad()
def test_given_positions_are_shortened(build, name):
    model, inputs = build(name), FAMILIES[name].inputs()
    others = {key: value for key, value in inputs.items() if key != "input_ids"}
    full = model._prepare_position_ids_for_generation(inputs["input_ids"], others)
    with prune(model, SELECTOR):
        expected = model(**inputs).logits
        assert torch.equal(model(**inputs, position_ids=full).logits, expected)


@pytest.mark.parametrize("name", CORE)
@torch.no_grad()
def test_merged_features_reach_the_language_model(build, name):
    model, inputs = build(name), FAMILIES[name].inputs()
    selector = NormPrune(0.4)
    with prune(model, selector, merge=True) as run:
        embedded = entering(model, inputs)["inputs_embeds"]
    ids, keep = inputs["input_ids"], kept_columns(inputs, run.last)
    for row in range(len(ids)):
        mine = [item for item in run.last if item.row == row]
        if not mine:
            continue
        merged = torch.cat([selector.reduce(x.features, merge=True).features for x in mine])
        at = (ids[row] == IMAGE)[keep[row]]
        torch.testing.assert_close(embedded[row, -len(at) :][at], merged)
        rows = torch.cat([x.features[x.indices] for x in mine])
        assert not torch.allclose(merged, rows)


def test_auto_keeps_positions_of_the_callers_own():
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs((1, 2))
    usual = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    for given, scheme in ((None, "compact"), (usual, "compact"), (3 * usual, "preserved")):
        with torch.no_grad():
            with prune(model, TransportPrune(0.3)) as run:
                found = model(**inputs, position_ids=given).logits
            assert run.positions == scheme
            with prune(model, TransportPrune(0.3), positions=scheme):
                right = model(**inputs, position_ids=given).logits
        assert torch.equal(found, right)
