"""A second turn on a cache with a pruned prompt: correct, or refused."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from transformers import DynamicCache, StaticCache

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


def four_dimensional(mask, new, dtype):
    """A causal mask `(B, 1, new, n)` of the last tokens by `(B, n)`, boolean or additive."""
    n = mask.shape[1]
    seen = (torch.ones(n, n).tril().bool()[n - new :] & mask.bool()[:, None])[:, None]
    if dtype == torch.bool:
        return seen
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


@pytest.mark.parametrize("mass", ["none", "token"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
@torch.no_grad()
def test_forward_continues_with_a_mask_of_four_dimensions(build, name, dtype, mass):
    """Over the full prompt or the pruned one, and of no other width."""
    model, inputs = build(name), FAMILIES[name].inputs()
    new, three = NEW.expand(3, -1), torch.ones(3, 3, dtype=torch.long)
    full = torch.cat([inputs["attention_mask"], three], dim=1)
    with prune(model, SELECTOR, mass=mass) as run:
        cache = model(**inputs).past_key_values
        columns = run.columns
        pruned = full.gather(1, columns.clamp(min=0)) * (columns >= 0)
        pruned = torch.cat([pruned, three], dim=1)
        wanted = model(
            input_ids=new, attention_mask=full, past_key_values=copy.deepcopy(cache)
        ).logits
        for mask in (full, pruned):
            given = four_dimensional(mask, 3, dtype)
            mine = copy.deepcopy(cache)
            got = model(input_ids=new, attention_mask=given, past_key_values=mine).logits
            torch.testing.assert_close(got, wanted, rtol=0, atol=TOLERANCE)
        given = four_dimensional(pruned, 3, dtype)[..., :-1]
        with pytest.raises(UnsupportedError, match="columns: expected the"):
            model(input_ids=new, attention_mask=given, past_key_values=cache)


@torch.no_grad()
def test_a_mask_over_the_slots_of_a_static_cache_is_left_as_it_is(build):
    """Also if there are as many slots as the full prompt has columns."""
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(1,))
    full = inputs["input_ids"].shape[1] + 3
    with prune(model, SELECTOR):
        cache = StaticCache(config=model.config, max_cache_len=full)
        n = model(**inputs, past_key_values=cache).past_key_values.get_seq_length()
        wanted = model(input_ids=NEW, past_key_values=copy.deepcopy(cache)).logits
        mask = four_dimensional(torch.ones(1, n + 3), 3, torch.bool)
        mask = torch.nn.functional.pad(mask, (0, full - n - 3))
        got = model(input_ids=NEW, attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(got, wanted, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_a_mask_of_all_columns_is_refused_where_layers_keep_a_window(build):
    model, inputs = build("gemma3"), FAMILIES["gemma3"].inputs(images=(1,))
    mask = four_dimensional(torch.ones(1, inputs["input_ids"].shape[1] + 3), 3, torch.float32)
    with prune(model, SELECTOR, mass="token"):
        cache = model(**inputs).past_key_values
        with pytest.raises(UnsupportedError, match="keys under a mask of"):
            model(input_ids=NEW, attention_mask=mask, past_key_values=cache)


@pytest.mark.parametrize("low", [float("-inf"), torch.finfo(torch.float32).min])
@pytest.mark.parametrize("mass", ["none", "token"])
def test_gradients_of_a_step_with_padding_that_sees_nothing(build, mass, low):
    """A loss on the other tokens says of the image what it says without the padding."""
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(1,))
    pixels = inputs.pop("pixel_values").requires_grad_()
    places = inputs["input_ids"].shape[1] + torch.arange(3)[None]
    gradients = []
    for first in (0, 1):  # the padding, or what follows it
        with prune(model, SELECTOR, positions="preserved", mass=mass):
            cache = model(**inputs, pixel_values=pixels).past_key_values
            n = cache.get_seq_length()
            mask = four_dimensional(torch.ones(1, n + 3 - first), 3 - first, torch.float32)
            if first == 0:
                mask[:, :, 0] = mask[..., n] = low
            out = model(
                input_ids=NEW[:, first:],
                attention_mask=mask,
                position_ids=places[:, first:],
                past_key_values=cache,
            )
        loss = out.logits[:, 1 - first :].square().sum()
        gradients.append(torch.autograd.grad(loss, pixels)[0])
    scale = gradients[1].abs().max()
    torch.testing.assert_close(gradients[0] / scale, gradients[1] / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mass", ["none", "token"])
def test_a_call_without_images_takes_any_mask_as_it_does_unpruned(build, mass):
    """In values and gradients, bit for bit: also where a query sees nothing."""
    model, words = build("llava"), torch.arange(40, 46)[None]
    embeds = model.get_input_embeddings()(words).detach().requires_grad_()
    mask = four_dimensional(torch.tensor([[0, 0, 1, 1, 1, 1]]), 6, torch.float32)
    made = []
    for block in (nullcontext(), prune(model, SELECTOR, mass=mass)):
        with block:
            out = model(inputs_embeds=embeds, attention_mask=mask).logits
        made.append((out, *torch.autograd.grad(out.square().sum(), embeds)))
    assert all(torch.equal(*each) for each in zip(*made, strict=True))


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
