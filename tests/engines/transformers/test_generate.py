"""generate() with all its options; results start with the caller's full prompt."""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from otprune import OTPrune, RandomPrune, UnsupportedError
from otprune.engines.transformers import prune
from otprune.engines.transformers.versions import ROWWISE, installed
from tests.families.base import PAD, SPECIAL
from tests.families.llava import LLAMA
from tests.families.tiny import FAMILIES

CORE = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SELECTOR = RandomPrune(0.4)
GREEDY = {"max_new_tokens": 6, "do_sample": False}

# Below that release both are refused, see tests/families/test_versions.py.
whole = pytest.mark.skipif(installed() < ROWWISE, reason="transformers itself is wrong here")
pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


def generate(model, inputs, positions="auto", **arguments):
    with prune(model, SELECTOR, positions=positions):
        return model.generate(**inputs, **{**GREEDY, **arguments})


def row_of(inputs, images, row):
    """One row of a LLaVA batch, without its padding."""
    kept = inputs["attention_mask"][row].bool()
    first = sum(images[:row])
    alone = {"input_ids": inputs["input_ids"][row : row + 1, kept]}
    alone["attention_mask"] = torch.ones_like(alone["input_ids"])
    if images[row]:
        alone["pixel_values"] = inputs["pixel_values"][first : first + images[row]]
    return alone


@pytest.mark.parametrize("name", CORE)
def test_merging_nothing_changes_no_bit(build, name):
    # With every token kept, merging and preserved positions change nothing.
    model, inputs = build(name), FAMILIES[name].inputs()
    how = GREEDY | {"return_dict_in_generate": True, "output_logits": True}
    plain, logits = model.generate(**inputs, **how), model(**inputs).logits
    with prune(model, OTPrune(1.0), positions="compact", merge=True):
        pruned = model.generate(**inputs, **how)
        assert torch.equal(model(**inputs).logits, logits)
    assert torch.equal(pruned.sequences, plain.sequences)
    assert all(map(torch.equal, pruned.logits, plain.logits))


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("positions", ["preserved", "compact"])
@pytest.mark.parametrize(
    "way",
    [
        {"cache_implementation": "static"},
        {"use_cache": False},
        pytest.param({"prefill_chunk_size": 7}, marks=whole),
        {"past_key_values": DynamicCache},
    ],
    ids=lambda way: next(iter(way)),
)
def test_every_way_of_caching_gives_one_answer(build, name, positions, way):
    model, inputs = build(name), FAMILIES[name].inputs(images=(1, 2, 0))
    way = {key: value() if value is DynamicCache else value for key, value in way.items()}
    expected = generate(model, inputs, positions)
    assert torch.equal(generate(model, inputs, positions, **way), expected)


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_no_cache_and_no_padding_is_not_read_as_packed_sequences(build, name, attention):
    # A mask of ones is dropped by generate(); gaps in positions then look like packed sequences.
    model, inputs = build(name, attention), FAMILIES[name].inputs(images=(2,))
    assert inputs["attention_mask"].all()
    expected = generate(model, inputs)
    assert torch.equal(generate(model, inputs, use_cache=False), expected)


@pytest.mark.parametrize("name", CORE)
def test_results_start_with_the_callers_prompt(build, name):
    model, inputs = build(name), FAMILIES[name].inputs(images=(1, 2, 0))
    ids = inputs["input_ids"]
    for arguments in ({}, {"return_dict_in_generate": True}):
        out = generate(model, inputs, **arguments)
        sequences = out.sequences if arguments else out
        assert sequences.shape == (3, ids.shape[1] + 6)
        assert torch.equal(sequences[:, : ids.shape[1]], ids)


@whole
@pytest.mark.parametrize("name", CORE)
def test_beams_and_return_sequences_are_grouped_by_sequence(build, name):
    model, inputs = build(name), FAMILIES[name].inputs(images=(1, 2, 0))
    ids = inputs["input_ids"]
    sequences = generate(model, inputs, num_beams=3, num_return_sequences=2)
    assert torch.equal(sequences[:, : ids.shape[1]], ids.repeat_interleave(2, dim=0))


@whole
def test_beams_of_a_batch_are_those_of_its_sequences(build):
    images = (2, 1, 0)
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=images)
    together = generate(model, inputs, num_beams=3)
    for row in range(3):
        alone = generate(model, row_of(inputs, images, row), num_beams=3)
        assert torch.equal(together[row, -6:], alone[0, -6:])


@whole
@pytest.mark.parametrize("name", ["internvl", "gemma3", *CORE])
def test_beams_repeat_the_features_of_their_sequence(build, name):
    # Also where the encoder made one tensor of all images, cut to different lengths.
    model, inputs = build(name), FAMILIES[name].inputs(images=(1, 2, 0))
    seen = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        generate(model, inputs, max_new_tokens=1)
        generate(model, inputs, max_new_tokens=1, num_beams=2)
    finally:
        hook.remove()
    assert torch.equal(seen[1], seen[0].repeat_interleave(2, dim=0))


@whole
def test_sampling_follows_the_seed(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(generate(model, inputs, do_sample=True, num_return_sequences=2))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("name", CORE)
def test_prompt_lookup_does_not_change_the_answer(build, name):
    model, inputs = build(name), FAMILIES[name].inputs(images=(2,))
    assert torch.equal(generate(model, inputs, prompt_lookup_num_tokens=2), generate(model, inputs))


def test_an_assistant_does_not_change_the_answer(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(1,))
    torch.manual_seed(3)
    assistant = LlamaForCausalLM(LlamaConfig(**{**LLAMA, "num_hidden_layers": 1})).eval()
    assistant.generation_config.pad_token_id = PAD
    assert torch.equal(generate(model, inputs, assistant_model=assistant), generate(model, inputs))


@pytest.mark.parametrize("place", ["argument", "generation_config", "model"])
def test_max_length_counts_the_callers_prompt(build, place, monkeypatch):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    length = inputs["input_ids"].shape[1] + 4
    arguments = {"do_sample": False}
    if place == "argument":
        arguments["max_length"] = length
    elif place == "generation_config":
        arguments = {
            "generation_config": GenerationConfig(
                max_length=length, do_sample=False, suppress_tokens=[PAD, *SPECIAL]
            )
        }
    else:
        monkeypatch.setattr(model.generation_config, "max_length", length)
    with prune(model, SELECTOR):
        answer = model.generate(**inputs, **arguments)
    assert torch.equal(answer, generate(model, inputs, max_new_tokens=4))
    if place == "generation_config":
        assert arguments["generation_config"].max_length == length


def test_max_new_tokens_takes_precedence_over_max_length(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    config = GenerationConfig(
        max_length=1, max_new_tokens=4, do_sample=False, suppress_tokens=[PAD, *SPECIAL]
    )
    with prune(model, SELECTOR):
        answer = model.generate(**inputs, generation_config=config)
    assert torch.equal(answer, generate(model, inputs, max_new_tokens=4))


def test_min_length_counts_the_callers_prompt(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(1,))
    n = inputs["input_ids"].shape[1]
    first = int(generate(model, inputs, max_new_tokens=1)[0, -1])
    short = generate(model, inputs, eos_token_id=first)
    assert short.shape[1] == n + 1
    # A token that may end the text is suppressed up to that length, and taken as soon as it may.
    for length in (n + 1, n + 3):
        how = {"eos_token_id": list(range(2, 300)), "min_length": length}
        unpruned = model.generate(**inputs, **GREEDY, **how)
        assert generate(model, inputs, **how).shape == unpruned.shape == (1, length + 1)


def test_a_max_length_below_the_prompt_is_an_error(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(1,))
    n = inputs["input_ids"].shape[1]
    with prune(model, SELECTOR):
        for length in (n, 5):
            with pytest.raises(ValueError, match=f"max_length={length} leaves .* prompt of {n}"):
                model.generate(**inputs, max_length=length)


@pytest.mark.parametrize("cached", [True, False])
def test_guidance_by_a_negative_prompt(build, cached):
    # Its extra calls of the model, from inside generate(), are about text alone.
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(2,))
    how = {"guidance_scale": 1.5, "negative_prompt_ids": torch.tensor([[1, 50, 51]])}
    guided = generate(model, inputs, use_cache=cached, **how)
    assert not torch.equal(guided, generate(model, inputs))
    assert torch.equal(guided, generate(model, inputs, **how))


class Recorder:
    """Streamer, processor and criterion in one: records the ids that it gets."""

    def __init__(self):
        self.seen = []
        self.ended = False

    def __call__(self, input_ids, scores):
        self.seen.append(input_ids)
        return scores

    def put(self, value):
        self.seen.append(value)

    def end(self):
        self.ended = True


def test_a_streamer_is_given_the_callers_prompt_then_the_answer(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(1,))
    streamer = Recorder()
    answer = generate(model, inputs, streamer=streamer)
    assert torch.equal(streamer.seen[0], inputs["input_ids"])
    assert torch.equal(torch.cat([x.flatten() for x in streamer.seen]), answer[0])
    assert streamer.ended


def test_a_streamer_is_read_while_another_thread_generates(build):
    class Ids:
        def decode(self, ids, **arguments):
            return " ".join(map(str, torch.as_tensor(ids).tolist()))

    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(1,))
    streamer = TextIteratorStreamer(Ids(), skip_prompt=True, timeout=60)
    with prune(model, SELECTOR) as run:
        answer = model.generate(**inputs, **GREEDY)
        # The block does not apply in another thread: the call passes its run.
        arguments = {**inputs, **GREEDY, "streamer": streamer, "otprune": run}
        thread = Thread(target=model.generate, kwargs=arguments)
        thread.start()
        said = "".join(streamer)
        thread.join()
    assert [int(x) for x in said.split()] == answer[0, -6:].tolist()


def test_processors_see_the_callers_prompt(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    processor = Recorder()
    answer = generate(model, inputs, logits_processor=LogitsProcessorList([processor]))
    n = inputs["input_ids"].shape[1]
    assert torch.equal(answer, generate(model, inputs))
    for step, ids in enumerate(processor.seen):
        assert torch.equal(ids, answer[:, : n + step])


def test_stopping_criteria_see_the_callers_prompt(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    n = inputs["input_ids"].shape[1]
    stop = StoppingCriteriaList([MaxLengthCriteria(n + 2)])
    assert generate(model, inputs, stopping_criteria=stop).shape[1] == n + 2


@whole
def test_allowed_tokens_are_asked_with_the_callers_prompt(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    ids = inputs["input_ids"]
    asked = []

    def allowed(row, sequence):
        asked.append(torch.equal(sequence[: ids.shape[1]], ids[row]))
        return [40 + row]

    answer = generate(model, inputs, prefix_allowed_tokens_fn=allowed, num_beams=2)
    assert all(asked)
    assert answer[:, ids.shape[1] :].tolist() == [[40 + row] * 6 for row in range(3)]


def test_the_prompt_as_a_positional_argument(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    expected = generate(model, inputs)
    ids = inputs.pop("input_ids")
    with prune(model, SELECTOR):
        assert torch.equal(model.generate(ids, **inputs, **GREEDY), expected)
        assert torch.equal(model.generate(inputs=ids, **inputs, **GREEDY), expected)


def test_a_missing_mask_is_guessed_from_the_padding(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    expected = generate(model, inputs)
    del inputs["attention_mask"]
    assert torch.equal(generate(model, inputs), expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bfloat16(attention):
    model = FAMILIES["llava"].model(attention).bfloat16()
    inputs = FAMILIES["llava"].inputs()
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    whole = model.generate(**inputs, **GREEDY)
    with prune(model, RandomPrune(1.0)):
        assert torch.equal(model.generate(**inputs, **GREEDY), whole)
    with prune(model, SELECTOR, merge=True) as run:
        assert model.generate(**inputs, **GREEDY).shape == whole.shape
    assert run.last[0].features.dtype == torch.bfloat16


def test_inference_mode(build):
    model, inputs = build("qwen2_5_vl"), FAMILIES["qwen2_5_vl"].inputs()
    expected = generate(model, inputs)
    with torch.inference_mode():
        assert torch.equal(generate(model, inputs), expected)


def test_text_alone_is_unchanged(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(0, 0))
    expected = model.generate(**inputs, **GREEDY)
    with prune(model, SELECTOR) as run:
        assert run.last is None
        assert torch.equal(model.generate(**inputs, **GREEDY), expected)
        assert run.last == []


@pytest.mark.parametrize("refused", [{"token_healing": True}, {"cache_implementation": "paged"}])
def test_unsupported_settings_are_refused(build, refused):
    model, inputs = build("llava"), FAMILIES["llava"].inputs()
    with pytest.raises(UnsupportedError, match=next(iter(refused))):
        generate(model, inputs, **refused)
    with pytest.raises(UnsupportedError, match=next(iter(refused))), prune(model, SELECTOR):
        model.generate(**inputs, generation_config=GenerationConfig(**refused))
