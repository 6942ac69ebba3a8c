"""Calls that once gave wrong results, or failed without a clear error."""

from __future__ import annotations

import contextvars
import copy
import gc
import weakref

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from otprune import (
    OTPruneError,
    RandomPrune,
    Settings,
    TransportPrune,
    UnsupportedError,
    disable,
    enable,
    prune,
    prune_inputs,
)
from otprune.engines.transformers import entry
from tests.engines.transformers.kept import TOLERANCE
from tests.engines.transformers.test_forward import right_padded
from tests.families.base import IMAGE, PAD, images_in
from tests.families.tiny import FAMILIES

PLAIN = Settings(RandomPrune(0.4), positions="preserved")
COMPACT = Settings(RandomPrune(0.4), positions="compact")
MASSED = Settings(TransportPrune(0.3), mass="token")
WEIGHED = Settings(RandomPrune(0.4), mass="total")
GREEDY = {"max_new_tokens": 4, "do_sample": False}
LOGITS = GREEDY | {"return_dict_in_generate": True, "output_logits": True}
ALL = pytest.mark.parametrize(
    "settings", [PLAIN, COMPACT, MASSED], ids=["plain", "compact", "massed"]
)


def close(a, b, tolerance=TOLERANCE):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def logits_of(out):
    return torch.stack(out.logits, dim=1)


# -- training ------------------------------------------------------------------------------------


def with_labels(inputs):
    """As from a collator: every token except padding and placeholders, including the first."""
    ids = inputs["input_ids"]
    return inputs | {"labels": ids.masked_fill((ids == IMAGE) | (ids == PAD), -100)}


def rows_alone(inputs, images):
    first = 0
    for b, number in enumerate(images):
        kept = inputs["attention_mask"][b].bool()
        row = {k: inputs[k][b : b + 1, kept] for k in ("input_ids", "attention_mask", "labels")}
        yield row | {"pixel_values": inputs["pixel_values"][first : first + number]}
        first += number


@ALL
@pytest.mark.parametrize("logits", ["short", "full"])
@torch.no_grad()
def test_the_loss_of_a_batch_is_that_of_its_sequences(build, settings, logits):
    """A first token is never a label, even if padding is added before it."""
    model, inputs = build("llava"), with_labels(right_padded(FAMILIES["llava"].inputs((1, 2))))
    settings = Settings(settings.selector, settings.positions, mass=settings.mass, logits=logits)
    total, number = 0.0, 0
    with prune(model, settings) as run:
        for row in rows_alone(inputs, (1, 2)):
            loss = model(**row).loss
            count = int((run.labels[:, 1:] != -100).sum())
            total, number = total + loss * count, number + count
        found = model(**inputs).loss
    close(found, total / number)


@torch.no_grad()
def test_the_loss_does_not_depend_on_the_padding_side(build):
    model, inputs = build("llava"), with_labels(right_padded(FAMILIES["llava"].inputs((1, 2))))
    left, right = (
        model(**prune_inputs(model, inputs, PLAIN.selector, padding_side=side)).loss
        for side in ("left", "right")
    )
    close(left, right)


def wrapped(model):
    apply_activation_checkpointing(
        model,
        checkpoint_wrapper_fn=checkpoint_wrapper,
        check_fn=lambda module: type(module).__name__ == "LlamaDecoderLayer",
    )


def by_hand(use_reentrant):
    def of(model):
        for layer in model.get_decoder().layers:
            inner = layer.forward

            def forward(x, *args, inner=inner, **kwargs):
                return checkpoint(
                    lambda x: inner(x, *args, **kwargs), x, use_reentrant=use_reentrant
                )

            layer.forward = forward

    return of


@pytest.mark.parametrize(
    "way", [wrapped, by_hand(False), by_hand(True)], ids=["wrapped", "by hand", "reentrant"]
)
@pytest.mark.parametrize("settings", [PLAIN, MASSED], ids=["plain", "massed"])
def test_activation_checkpointing_of_layers_is_refused_with_mass(way, settings):
    """Checkpointing that transformers does not know of: gradients would be those without mass."""

    def gradients(change):
        model = FAMILIES["llava"].model().train()
        change(model)
        with prune(model, settings):
            inputs = with_labels(FAMILIES["llava"].inputs((1, 2)))
            model(**inputs, use_cache=False).loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    if settings is MASSED:
        with pytest.raises(UnsupportedError, match="checkpointing"):
            gradients(way)
    else:
        assert all(map(torch.allclose, gradients(way), gradients(lambda model: None)))


def test_checkpointing_a_whole_call_keeps_masses():
    def gradients(call):
        model = FAMILIES["llava"].model().train()
        inputs = with_labels(FAMILIES["llava"].inputs((1, 2)))
        with prune(model, MASSED):
            call(lambda: model(**inputs, use_cache=False).loss).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    found = gradients(lambda function: checkpoint(function, use_reentrant=False))
    assert all(map(torch.equal, found, gradients(lambda function: function())))


# -- nested calls --------------------------------------------------------------------------------


class Asking(StoppingCriteria):
    def __init__(self, ask):
        self.ask = ask
        self.said = []

    def __call__(self, input_ids, scores, **kwargs):
        self.said.append(self.ask())
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("who", ["base model", "language model", "text model", "other model"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@torch.no_grad()
def test_masses_do_not_affect_other_models_that_share_layers(who, cache):
    """A stopping criterion calls a part of the model, or another model with the same layers."""
    model, other = FAMILIES["llava"].model(), FAMILIES["llava"].model()
    text, images = FAMILIES["llava"].inputs((0,), seed=3), FAMILIES["llava"].inputs((1,), seed=3)
    other.model.language_model = model.model.language_model
    alone = LlamaForCausalLM(model.config.text_config).eval()
    alone.model, alone.lm_head = model.model.language_model, model.lm_head
    ask = {
        "base model": lambda: model.base_model(**text).last_hidden_state,
        "language model": lambda: model.get_decoder()(**text).last_hidden_state,
        "text model": lambda: alone(**text).logits,
        "other model": lambda: other(**images).logits,
    }[who]
    expected, criterion = ask(), Asking(ask)
    how = {"cache_implementation": "static"} if cache == "static" else {}
    with prune(model, MASSED):
        inputs = FAMILIES["llava"].inputs((1,))
        plain = model.generate(**inputs, **GREEDY)
        found = model.generate(
            **inputs, **GREEDY, **how, stopping_criteria=StoppingCriteriaList([criterion])
        )
    assert torch.equal(found, plain)
    for said in criterion.said:
        close(said, expected)


# -- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("images", [(1, 2, 0), (2,)])
@ALL
@torch.no_grad()
def test_a_bound_generate_from_before_the_block_is_pruned(build, name, images, settings):
    """It calls the pruned forward(), with positions of the full prompt."""
    model, inputs = build(name), FAMILIES[name].inputs(images)
    before = model.generate
    with prune(model, settings):
        expected = model.generate(**inputs, **LOGITS)
        found = before(**inputs, **LOGITS)
    close(logits_of(found), logits_of(expected))


def ending_with_an_image(name):
    inputs = FAMILIES[name].inputs((1,))
    shape = inputs["input_ids"].shape
    end = int(images_in(inputs["input_ids"])[0].columns[-1]) + 1
    return {k: v[:, :end] if v.shape == shape else v for k, v in inputs.items()}


@pytest.mark.parametrize("name", ["llava", "mistral3", "internvl"])
@pytest.mark.parametrize(
    "how",
    [{}, {"use_cache": False}, {"cache_implementation": "static"}, {"num_return_sequences": 2}],
    ids=str,
)
@pytest.mark.parametrize("settings", [PLAIN, COMPACT, WEIGHED], ids=["plain", "compact", "massed"])
@torch.no_grad()
def test_positions_of_an_answer_directly_after_an_image(build, name, how, settings):
    """The last token of the prompt is dropped, but the answer still follows its position."""
    model, inputs = build(name), ending_with_an_image(name)
    how = how | ({"do_sample": True} if "num_return_sequences" in how else {})
    width = inputs["input_ids"].shape[1]
    with prune(model, settings) as run:
        out = model.generate(**inputs, **LOGITS | how)
        assert int(run.last[0].indices[-1]) < run.last[0].before - 1
        for row in range(len(out.sequences)):
            whole = {"input_ids": out.sequences[row : row + 1]}
            whole["attention_mask"] = torch.ones_like(whole["input_ids"])
            if "token_type_ids" in inputs:
                types = torch.zeros_like(whole["input_ids"])
                types[:, :width] = inputs["token_type_ids"]
                whole["token_type_ids"] = types
            forced = model(**inputs | whole).logits[0, -5:-1]
            close(logits_of(out)[row], forced)
        cache = model(**inputs).past_key_values
        step = out.sequences[:1, width : width + 1]
        close(model(input_ids=step, past_key_values=cache).logits[0, -1], out.logits[1][0])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_the_next_turn_directly_after_an_image(build, name):
    """A second turn on the cache equals a call with the whole conversation."""
    model, inputs = build(name), ending_with_an_image(name)
    with prune(model, PLAIN):
        first = model.generate(**inputs, **LOGITS | {"max_new_tokens": 6})
        short = model.generate(**inputs, **LOGITS | {"max_new_tokens": 3})
        rest = {"input_ids": first.sequences[:, : short.sequences.shape[1]]}
        rest["attention_mask"] = torch.ones_like(rest["input_ids"])
        again = model.generate(
            **rest, past_key_values=short.past_key_values, **LOGITS | {"max_new_tokens": 3}
        )
    close(logits_of(again), logits_of(first)[:, 3:])


@torch.no_grad()
def test_inputs_that_end_with_a_dropped_token_are_refused(build):
    """generate() would not know the position of the answer."""
    model, inputs = build("llava"), ending_with_an_image("llava")
    with pytest.raises(UnsupportedError, match="ends with a visual token"):
        prune_inputs(model, inputs, PLAIN.selector, "preserved")
    for settings in (COMPACT, Settings(RandomPrune(1.0))):
        prune_inputs(model, inputs, settings.selector, settings.positions)


# -- caches --------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_next_turn_infers_padding_without_a_mask(build):
    """generate() treats pad tokens as padding, also on a cache that forward() filled."""
    model, inputs = build("llava"), FAMILIES["llava"].inputs((1, 2, 0))
    ids = torch.cat([inputs["input_ids"], torch.tensor([[50, 51]]).expand(3, -1)], dim=1)
    mask = {"attention_mask": (ids != PAD).long()}

    def logits(more):
        cache = model(**inputs).past_key_values
        return logits_of(model.generate(input_ids=ids, past_key_values=cache, **more, **LOGITS))

    assert torch.equal(logits({}), logits(mask))
    with prune(model, PLAIN):
        close(logits({}), logits(mask))


@pytest.mark.parametrize("more", [{}, {"otprune": None}], ids=["nothing", "None"])
@torch.no_grad()
def test_an_unpruned_call_on_a_pruned_cache_is_refused(more):
    """The model is enabled without settings, and the call has no `otprune` argument."""
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs((1,))
    enable(model)
    first = model.generate(**inputs, **LOGITS, otprune=MASSED)
    ids = torch.cat([first.sequences, torch.tensor([[50, 51]])], dim=1)
    rest = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(UnsupportedError, match="cache holds a pruned prompt"):
        model.generate(**rest, past_key_values=first.past_key_values, **GREEDY, **more)
    cache = model(**inputs, otprune=MASSED).past_key_values
    with pytest.raises(UnsupportedError, match="cache holds a pruned prompt"):
        model(input_ids=torch.tensor([[40]]), past_key_values=cache, **more)
    disable(model)


@torch.no_grad()
def test_a_shallow_copy_of_a_cache_shares_its_memory(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs((1, 2, 0))
    rows, step = torch.tensor([2, 1, 0]), torch.tensor([[40], [41], [42]])
    with prune(model, PLAIN):
        cache = model(**inputs).past_key_values
        expected = model(input_ids=step, past_key_values=copy.deepcopy(cache)).logits[rows]
        shared = copy.copy(cache)
        shared.reorder_cache(rows)
        close(model(input_ids=step[rows], past_key_values=shared).logits, expected)


# -- references after a block --------------------------------------------------------------------


def test_a_context_does_not_keep_the_model_alive():
    """An asyncio task started inside the block keeps a copy of the context."""
    model = FAMILIES["llava"].model()
    there = weakref.ref(model)
    with prune(model, PLAIN):
        context = contextvars.copy_context()
    del model
    gc.collect()
    assert there() is None
    assert entry._BLOCKS in context


def test_blocks_ended_in_another_context_do_not_accumulate():
    """As for generators that are closed in another context."""

    def piling():
        model = FAMILIES["llava"].model()
        for _ in range(5):
            block = prune(model, PLAIN)
            block.__enter__()
            contextvars.Context().run(block.__exit__, None, None, None)
        return len(entry._BLOCKS.get())

    assert contextvars.Context().run(piling) <= 1


@torch.no_grad()
def test_an_unknown_result_of_custom_generate_is_refused(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs((1,))
    with prune(model, PLAIN), pytest.raises(OTPruneError, match="custom_generate"):
        model.generate(**inputs, **GREEDY, custom_generate=lambda model, input_ids, **_: {"a": 1})
