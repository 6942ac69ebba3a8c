"""A second turn on a cache with a pruned prompt: correct, or refused."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache

from otprune import RandomPrune, UnsupportedError
from otprune.engines.transformers import prune
from tests.engines.transformers.kept import TOLERANCE, kept_columns
from tests.families.reference import reference_logits
from tests.families.tiny import FAMILIES

CORE = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SELECTOR = RandomPrune(0.4)
GREEDY = {
    "max_new_tokens": 4,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
}
NEW = torch.tensor([[50, 51, 52]])


def longer(inputs, sequences):
    """The inputs of the whole conversation, `sequences` being all ids so far."""
    more = sequences.shape[1] - inputs["input_ids"].shape[1]
    ones = torch.ones(len(sequences), more, dtype=torch.long)
    whole = inputs | {
        "input_ids": sequences,
        "attention_mask": torch.cat([inputs["attention_mask"], ones], dim=1),
    }
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        whole["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(ones)], dim=1).int()
    return whole


def without_images(inputs):
    names = ("input_ids", "attention_mask", "mm_token_type_ids")
    return {key: inputs[key] for key in names if key in inputs}


def expected_logits(model, inputs, items, ids, positions):
    """The reference logits of every sequence, with all ids after the prompt as its answer."""
    answer = ids[:, inputs["input_ids"].shape[1] :]
    return reference_logits(model, inputs, kept_columns(inputs, items), positions, answer)


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("positions", ["preserved", "compact"])
@torch.no_grad()
def test_generate_continues_with_the_whole_conversation(build, name, positions):
    model, inputs = build(name), FAMILIES[name].inputs()
    with prune(model, SELECTOR, positions=positions) as run:
        first = model.generate(**inputs, **GREEDY)
        items = run.last
        ids = torch.cat([first.sequences, NEW.expand(3, -1)], dim=1)
        whole = longer(inputs, ids)
        second = model.generate(
            **without_images(whole), past_key_values=first.past_key_values, **GREEDY
        )
        assert run.last == []
        third = model.generate(
            **without_images(longer(inputs, second.sequences)),
            past_key_values=second.past_key_values,
            **GREEDY,
        )
    assert torch.equal(second.sequences[:, : ids.shape[1]], ids)
    assert torch.equal(third.sequences[:, : second.sequences.shape[1]], second.sequences)
    for turn in (second, third):
        answered = turn.sequences.shape[1] - len(turn.logits)
        ids = turn.sequences[:, :-1]
        for row, expected in enumerate(expected_logits(model, inputs, items, ids, positions)):
            got = torch.stack([step[row] for step in turn.logits])
            torch.testing.assert_close(
                got, expected[answered - turn.sequences.shape[1] :], rtol=0, atol=TOLERANCE
            )


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("positions", ["preserved", "compact"])
@torch.no_grad()
def test_forward_continues_with_new_tokens(build, name, positions):
    model, inputs = build(name), FAMILIES[name].inputs()
    new = NEW.expand(3, -1)
    whole = longer(inputs, torch.cat([inputs["input_ids"], new], dim=1))
    with prune(model, SELECTOR, positions=positions) as run:
        cache = model(**inputs).past_key_values
        out = model(input_ids=new, attention_mask=whole["attention_mask"], past_key_values=cache)
    ids = whole["input_ids"]
    for row, expected in enumerate(expected_logits(model, inputs, run.last, ids, positions)):
        torch.testing.assert_close(out.logits[row], expected[-3:], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_forward_continues_with_embeddings(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(1,))
    with prune(model, SELECTOR):
        caches = [model(**inputs).past_key_values for _ in range(2)]
        a = model(input_ids=NEW, past_key_values=caches[0]).logits
        b = model(inputs_embeds=model.get_input_embeddings()(NEW), past_key_values=caches[1]).logits
    assert torch.equal(a, b)


@torch.no_grad()
def test_a_copied_cache_continues_in_another_block(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    cache = DynamicCache()
    with prune(model, SELECTOR) as run:
        first = model.generate(**inputs, **GREEDY, past_key_values=cache)
        prompt = int(kept_columns(inputs, run.last).sum(dim=1).max())
    whole = longer(inputs, torch.cat([first.sequences, NEW.expand(3, -1)], dim=1))
    answers = []
    for each in (copy.deepcopy(cache), cache):
        with prune(model, RandomPrune(0.9)):
            answers.append(model.generate(**without_images(whole), **GREEDY, past_key_values=each))
    assert torch.equal(answers[0].sequences, answers[1].sequences)
    turn = GREEDY["max_new_tokens"]
    behind = turn + NEW.shape[1] + turn - 1  # the last token is not in the cache
    assert answers[0].past_key_values.get_seq_length() == prompt + behind


@torch.no_grad()
def test_an_emptied_cache_has_no_memory(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(1,))
    text = FAMILIES["llava"].inputs(images=(0,))
    cache = DynamicCache()
    with prune(model, SELECTOR):
        model.generate(**inputs, **GREEDY, past_key_values=cache)
        cache.crop(-cache.get_seq_length())
        expected = model.generate(**text, **GREEDY)
        first = model.generate(**text, **GREEDY, past_key_values=cache)
        assert torch.equal(first.sequences, expected.sequences)
        again = longer(text, torch.cat([first.sequences, NEW], dim=1))
        model.generate(**again, **GREEDY, past_key_values=cache)


@torch.no_grad()
def test_new_images_on_a_filled_cache_are_refused(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    with prune(model, SELECTOR):
        first = model.generate(**inputs, **GREEDY)
        whole = longer(inputs, first.sequences)
        for call in (model.generate, model):
            with pytest.raises(UnsupportedError, match="new images on a cache"):
                call(**whole, past_key_values=first.past_key_values)


@torch.no_grad()
def test_ids_that_do_not_start_with_the_prompt_are_refused(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    with prune(model, SELECTOR):
        first = model.generate(**inputs, **GREEDY)
        cache = first.past_key_values
        with pytest.raises(UnsupportedError, match="do not begin with it"):
            model.generate(input_ids=NEW.expand(3, -1), past_key_values=cache)
        with pytest.raises(UnsupportedError, match="3 pruned sequences, this call has 2"):
            model.generate(input_ids=first.sequences[:2], past_key_values=cache)
        ids, mask = first.sequences, inputs["attention_mask"]
        places = torch.arange(ids.shape[1])[None]
        embeds = model.get_input_embeddings()(ids)
        with pytest.raises(UnsupportedError, match="not with inputs_embeds"):
            model.generate(inputs_embeds=embeds, past_key_values=cache)
        with pytest.raises(UnsupportedError, match="position_ids"):
            model.generate(input_ids=ids, past_key_values=cache, position_ids=places)
        with pytest.raises(UnsupportedError, match="attention_mask"):
            model.generate(input_ids=ids, past_key_values=cache, attention_mask=mask)
        cache.crop(5 - cache.get_seq_length())
        with pytest.raises(UnsupportedError, match="cropped"):
            model.generate(input_ids=first.sequences, past_key_values=cache)
