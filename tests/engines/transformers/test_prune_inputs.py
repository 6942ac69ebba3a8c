"""prune_inputs: the same call, made by the user."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import BatchFeature

from otprune import OTPruneError, RandomPrune, UnsupportedError, prune, prune_inputs
from otprune.engines.transformers.versions import ROWWISE, installed
from tests.families.base import IMAGE
from tests.families.tiny import FAMILIES

CORE = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SELECTOR = RandomPrune(0.4)
GREEDY = {"max_new_tokens": 4, "do_sample": False}

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("positions", ["preserved", "compact"])
@pytest.mark.parametrize("merge", [False, True])
def test_equals_the_with_block(build, name, positions, merge):
    model, inputs = build(name), FAMILIES[name].inputs()
    given = dict(inputs)
    shorter = prune_inputs(model, inputs, SELECTOR, positions=positions, merge=merge)
    assert inputs.keys() == given.keys()
    assert all(inputs[key] is given[key] for key in given)
    with prune(model, SELECTOR, positions=positions, merge=merge):
        logits = model(**inputs).logits
        answer = model.generate(**inputs, **GREEDY)
    assert torch.equal(model(**shorter).logits, logits)
    shorter = prune_inputs(model, inputs, SELECTOR, positions=positions, merge=merge)
    out = model.generate(**shorter, **GREEDY)
    n = shorter["input_ids"].shape[1]
    assert torch.equal(out[:, n:], answer[:, -4:])


@pytest.mark.parametrize("name", CORE)
def test_decoding_by_hand(build, name):
    model, inputs = build(name), FAMILIES[name].inputs()
    with prune(model, SELECTOR):
        answer = model.generate(
            **inputs, **GREEDY, output_logits=True, return_dict_in_generate=True
        )
    shorter = prune_inputs(model, inputs, SELECTOR)
    places, mask = shorter["position_ids"], shorter["attention_mask"]
    out = model(**shorter)
    for step in range(3):
        places = places[..., -1:] + 1
        mask = torch.cat([mask, torch.ones(3, 1).long()], dim=1)
        out = model(
            input_ids=answer.sequences[:, step - 4, None],
            attention_mask=mask,
            position_ids=places,
            past_key_values=out.past_key_values,
        )
        torch.testing.assert_close(out.logits[:, -1], answer.logits[step + 1])


@pytest.mark.parametrize("name", [name for name in CORE if "qwen" in name])
@pytest.mark.parametrize("positions", ["preserved", "compact"])
def test_mrope_models_continue_with_rope_deltas(build, name, positions):
    model, inputs = build(name), FAMILIES[name].inputs(images=(2,))
    shorter = prune_inputs(model, inputs, SELECTOR, positions=positions)
    last = shorter["position_ids"][..., -1:]
    out = model(**shorter)
    step = torch.tensor([[40]])
    a = model(
        input_ids=step, past_key_values=copy.deepcopy(out.past_key_values), position_ids=last + 1
    )
    b = model(input_ids=step, past_key_values=out.past_key_values)
    assert torch.equal(a.logits, b.logits)


@pytest.mark.parametrize("name", CORE)
def test_padding_on_either_side(build, name):
    model, inputs = build(name), FAMILIES[name].inputs()
    left = prune_inputs(model, inputs, SELECTOR)
    right = prune_inputs(model, inputs, SELECTOR, padding_side="right")
    number = left["attention_mask"].sum(dim=1)
    assert torch.equal(right["attention_mask"].sum(dim=1), number)
    assert int(number.max()) == left["input_ids"].shape[1] == right["input_ids"].shape[1]
    a, b = model(**left).logits, model(**right).logits
    for row, n in enumerate(number.tolist()):
        assert left["attention_mask"][row, -n:].all()
        assert right["attention_mask"][row, :n].all()
        assert torch.equal(left["input_ids"][row, -n:], right["input_ids"][row, :n])
        torch.testing.assert_close(a[row, -n:], b[row, :n], rtol=0, atol=2e-4)


def test_keeping_everything_returns_the_same_tensors(build):
    for name in CORE:
        model, inputs = build(name), FAMILIES[name].inputs()
        whole = prune_inputs(model, inputs, RandomPrune(1.0), merge=True)
        assert set(whole) == set(inputs) - {"pixel_values"} | {"mm_encoder_outputs"}
        assert all(whole[key] is inputs[key] for key in inputs if key in whole)


def test_text_alone_is_unchanged(build):
    inputs = FAMILIES["llava"].inputs(images=(0, 0))
    assert prune_inputs(build("llava"), inputs, SELECTOR) == inputs


@pytest.mark.skipif(installed() < ROWWISE, reason="transformers itself is wrong here")
def test_encoder_outputs_are_pruned_and_not_changed_in_place(build):
    model, inputs = build("qwen3_vl"), FAMILIES["qwen3_vl"].inputs()
    encoded = model.model.get_image_features(
        inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
    )
    before = encoded.pooler_output, [list(level) for level in encoded.deepstack_features]
    ready = {key: value for key, value in inputs.items() if key != "pixel_values"}
    ready["mm_encoder_outputs"] = {"image": encoded}
    for selector in (SELECTOR, RandomPrune(1.0)):
        with prune(model, selector):
            expected = model.generate(**inputs, **GREEDY, num_beams=2)
            assert torch.equal(model.generate(**ready, **GREEDY, num_beams=2), expected)
    assert encoded.pooler_output is before[0]
    assert [list(level) for level in encoded.deepstack_features] == before[1]
    with pytest.raises(ValueError, match="both"):
        prune_inputs(model, inputs | {"mm_encoder_outputs": {"image": encoded}}, SELECTOR)


def test_deepstack_levels_keep_their_own_rows(build):
    model, inputs = build("qwen3_vl"), FAMILIES["qwen3_vl"].inputs()
    encoded = model.model.get_image_features(
        inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
    )
    for merge in (False, True):
        with prune(model, SELECTOR) as run:
            model(**inputs)
        shorter = prune_inputs(model, inputs, SELECTOR, merge=merge)
        levels = shorter["mm_encoder_outputs"]["image"].deepstack_features
        assert len(levels) == len(encoded.deepstack_features) == 2
        for level, whole in zip(levels, encoded.deepstack_features, strict=True):
            for rows, full, item in zip(level, whole, run.last, strict=True):
                assert torch.equal(rows, full[item.indices])


def test_pruning_twice_is_refused(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    shorter = prune_inputs(model, inputs, SELECTOR)
    with pytest.raises(UnsupportedError, match="pruned already"):
        prune_inputs(model, shorter, SELECTOR)
    with prune(model, SELECTOR), pytest.raises(UnsupportedError, match="pruned already"):
        model.generate(**shorter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": lambda x: x[:, None, None]}, "attention_mask is"),
        ({"attention_mask": lambda x: x * 0}, "attention_mask hides"),
        ({"pixel_values": lambda x: x[:2]}, "48 image placeholders .* made 32"),
        ({"input_ids": lambda x: x.masked_fill(x == 10, IMAGE)}, "placeholders"),
        ({"input_ids": lambda x: None}, "without input_ids"),
        ({"weights_of_mine": lambda x: torch.ones(3, 43)}, "weights_of_mine has the prompt's"),
        ({"logits_to_keep": lambda x: torch.tensor([3])}, "logits_to_keep asks for columns"),
    ],
)
def test_unsupported_arguments_are_refused(build, change, message):
    inputs = FAMILIES["llava"].inputs()
    ((key, made),) = change.items()
    inputs[key] = made(inputs.get(key))
    with pytest.raises(OTPruneError, match=message):
        prune_inputs(build("llava"), inputs, SELECTOR)


def test_images_in_another_order_than_their_placeholders_are_refused(build):
    model, inputs = build("qwen2_vl"), FAMILIES["qwen2_vl"].inputs(images=(1, 1))
    assert inputs["image_grid_thw"].prod(dim=1).tolist() == [64, 48]
    inputs["image_grid_thw"] = inputs["image_grid_thw"].flip(0)
    with pytest.raises(OTPruneError, match="does not fit the placeholders of sequence 0"):
        prune_inputs(model, inputs, SELECTOR)


def test_a_batch_feature_is_accepted(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    expected = prune_inputs(model, inputs, SELECTOR)
    shorter = prune_inputs(model, BatchFeature(inputs), SELECTOR)
    assert torch.equal(shorter["input_ids"], expected["input_ids"])


def test_embeddings_instead_of_ids_are_refused_with_images_only(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    with pytest.raises(UnsupportedError, match="input_ids instead of inputs_embeds"):
        prune_inputs(model, inputs | {"inputs_embeds": embeds}, SELECTOR)
    alone = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    with prune(model, SELECTOR) as run:
        out = model(**alone).logits
        assert run.last == []
    assert torch.equal(out, model(**alone).logits)


def test_missing_type_ids_of_mrope_are_refused(build):
    model, inputs = build("qwen2_5_vl"), FAMILIES["qwen2_5_vl"].inputs()
    del inputs["mm_token_type_ids"]
    with pytest.raises(OTPruneError, match="mm_token_type_ids is missing"):
        prune_inputs(model, inputs, SELECTOR)


@pytest.mark.parametrize(
    "wrong", [{"positions": "dense"}, {"positions": None}, {"padding_side": "top"}]
)
def test_wrong_arguments(build, wrong):
    with pytest.raises(OTPruneError, match=f"{next(iter(wrong))}="):
        prune_inputs(build("llava"), FAMILIES["llava"].inputs(), SELECTOR, **wrong)
