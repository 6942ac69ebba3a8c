"""Which settings apply to a call: blocks, enabled models, single calls, threads, nested calls."""

from __future__ import annotations

import copy
import pickle
from contextlib import suppress
from contextvars import copy_context
from threading import Barrier, Thread

import pytest
import torch
from transformers import CompileConfig, DynamicCache, StoppingCriteria, StoppingCriteriaList
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import otprune
from otprune import (
    DivPrune,
    DPPPrune,
    OTPrune,
    OTPruneError,
    RandomPrune,
    Settings,
    TransportPrune,
    UnsupportedError,
    disable,
    enable,
    prune,
)
from otprune.engines.transformers.memory import recall
from tests.engines.transformers.test_conversation import longer, without_images
from tests.engines.transformers.test_run import state
from tests.families.tiny import FAMILIES

GREEDY = {"max_new_tokens": 3, "do_sample": False}
LOGITS = GREEDY | {"return_dict_in_generate": True, "output_logits": True}
KEPT = RandomPrune(0.4)
MASSED = Settings(TransportPrune(0.3), merge=True, mass="token")
pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def model():
    return FAMILIES["llava"].model()


@pytest.fixture
def inputs():
    return FAMILIES["llava"].inputs()


def ids_of(model, inputs, settings=None, **more):
    if settings is None:
        return model.generate(**inputs, **GREEDY, **more)
    with prune(model, settings):
        return model.generate(**inputs, **GREEDY, **more)


def in_thread(function):
    """Run a function in a new thread; return its result or raise its error."""
    found = []

    def target():
        with torch.no_grad():
            try:
                found.append(function())
            except Exception as error:
                found.append(error)

    thread = Thread(target=target)
    thread.start()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


# -- the three ways ------------------------------------------------------------------------------


def test_a_block_applies_in_its_own_thread_only(model, inputs):
    plain, pruned = ids_of(model, inputs), ids_of(model, inputs, MASSED)
    assert not torch.equal(plain, pruned)
    with prune(model, MASSED) as run:
        assert torch.equal(in_thread(lambda: model.generate(**inputs, **GREEDY)), plain)
        logits = in_thread(lambda: model(**inputs).logits)
        assert torch.equal(logits, model(**inputs, otprune=None).logits)
        assert run.last is None
        context = copy_context()
        there = in_thread(lambda: context.run(lambda: model.generate(**inputs, **GREEDY)))
        assert torch.equal(there, pruned)
        told = in_thread(lambda: model.generate(**inputs, **GREEDY, otprune=run))
        assert torch.equal(told, pruned)
        assert len(run.last) == 3


def test_an_enabled_model_is_pruned_in_all_threads(model, inputs):
    plain, pruned = ids_of(model, inputs), ids_of(model, inputs, MASSED)
    before = state(model)
    run = enable(model, MASSED)
    for call in (lambda f: f(), in_thread):
        assert torch.equal(call(lambda: model.generate(**inputs, **GREEDY)), pruned)
    assert len(run.last) == 3
    other = ids_of(model, inputs, Settings(KEPT))  # a block takes precedence
    assert not torch.equal(other, pruned)
    assert torch.equal(model.generate(**inputs, **GREEDY, otprune=None), plain)
    enable(model, KEPT)
    assert torch.equal(model.generate(**inputs, **GREEDY), other)
    disable(model)
    disable(model)
    assert torch.equal(model.generate(**inputs, **GREEDY), plain)
    assert state(model) == before


def test_settings_of_a_single_call(model, inputs):
    plain, pruned = ids_of(model, inputs), ids_of(model, inputs, MASSED)
    before = state(model)
    with prune(model, MASSED):
        logits = model(**inputs).logits
    enable(model)
    assert torch.equal(model.generate(**inputs, **GREEDY), plain)
    assert torch.equal(model.generate(**inputs, **GREEDY, otprune=MASSED), pruned)
    assert torch.equal(model(**inputs, otprune=MASSED).logits, logits)
    with prune(model, KEPT):
        assert torch.equal(model.generate(**inputs, **GREEDY, otprune=MASSED), pruned)
        assert torch.equal(model.generate(**inputs, **GREEDY, otprune=None), plain)
    for wrong in (KEPT, 0.1, "token"):
        with pytest.raises(OTPruneError, match=r"otprune=.*: expected otprune.Settings"):
            model(**inputs, otprune=wrong)
    disable(model)
    assert state(model) == before


def test_disable_does_not_affect_a_running_call(model, inputs):
    expected = ids_of(model, inputs, MASSED)
    enable(model, MASSED)

    def allowed(row, ids):
        disable(model)
        return list(range(2, 300))

    answer = model.generate(**inputs, **GREEDY, prefix_allowed_tokens_fn=allowed)
    assert torch.equal(answer, expected)
    assert "generate" not in vars(model)


def test_a_block_ended_in_another_context_has_ended(model, inputs):
    plain, before = ids_of(model, inputs), state(model)
    block = prune(model, KEPT)
    block.__enter__()
    in_thread(lambda: block.__exit__(None, None, None))
    assert state(model) == before
    assert torch.equal(ids_of(model, inputs), plain)
    with prune(FAMILIES["llava"].model(), KEPT):
        assert torch.equal(ids_of(model, inputs), plain)


def test_a_block_is_entered_once(model):
    block = prune(model, KEPT)
    with block, pytest.raises(OTPruneError, match="entered before"), block:
        pass
    with pytest.raises(OTPruneError, match="entered before"), block:
        pass
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(OTPruneError, match=r"pickle otprune\.Settings"):
            copied(prune(model, KEPT))


@pytest.mark.parametrize("wrong", [0.1, "otprune", OTPrune, None, {"keep": 0.1}])
def test_an_argument_that_is_no_selector_is_refused_at_once(model, inputs, wrong):
    before = state(model)
    for way in (prune, Settings, otprune.prune_inputs):
        with pytest.raises(OTPruneError, match="selector="):
            way(wrong) if way is Settings else way(
                model, *([inputs] if way is otprune.prune_inputs else []), wrong
            )
    if wrong is not None:
        with pytest.raises(OTPruneError, match="selector="):
            enable(model, wrong)
    assert state(model) == before


def test_settings_exclude_other_arguments(model):
    with pytest.raises(OTPruneError, match="say all of it in the settings"):
        prune(model, MASSED, merge=True)
    for wrong in ({"logits": "all"}, {"merge": "yes"}, {"positions": "none"}, {"mass": 1}):
        with pytest.raises(OTPruneError, match=f"^{next(iter(wrong))}="):
            Settings(KEPT, **wrong)


def test_repr_of_a_run(model, inputs):
    with prune(model, KEPT) as run:
        assert repr(run) == "Run(no call yet)"
        model(**inputs)
        assert repr(run) == "Run(image 16 -> 6, image 16 -> 6, image 16 -> 6; 48 -> 18 in all)"
        model(**FAMILIES["llava"].inputs((1,)))
        assert repr(run) == "Run(image 16 -> 6)"
        model(**FAMILIES["llava"].inputs((0,)))
        assert repr(run) == "Run(no image in the last call)"
        assert (run.columns, run.input_ids, run.labels) == (None, None, None)


# -- threads -------------------------------------------------------------------------------------

MANY = (
    None,
    Settings(OTPrune(0.3)),
    Settings(TransportPrune(0.3), mass="token"),
    Settings(DivPrune(4), positions="compact", merge=True),
    Settings(DPPPrune(0.5), merge=True, mass="total"),
)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("calls", [10, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["blocks", "calls"])
def test_eight_threads_with_four_settings_and_none(name, calls, way):
    """Each answer equals that of the same call alone, to the last bit."""
    family = FAMILIES[name]
    model = family.model()
    batches = [family.inputs((1, 2, 0)), family.inputs((2,)), family.inputs((1, 1))]

    def answer(i, s, generated):
        more = {"otprune": MANY[s]} if way == "calls" else {}
        if way == "blocks" and MANY[s] is not None:
            with prune(model, MANY[s]):
                return answer_of(batches[i], generated, more)
        return answer_of(batches[i], generated, more)

    def answer_of(inputs, generated, more):
        if generated:
            return model.generate(**inputs, **GREEDY, **more)
        return model(**inputs, **more).logits

    if way == "calls":
        enable(model)
    cases = [(i, s, g) for i in range(3) for s in range(5) for g in (True, False)]
    expected = {case: answer(*case) for case in cases}
    before = state(model)
    start, wrong, errors = Barrier(8), [], []

    def work(thread):
        with torch.no_grad():
            start.wait()
            for c in range(calls):
                case = cases[(thread * 7 + c * 11) % len(cases)]
                try:
                    if not torch.equal(answer(*case), expected[case]):
                        wrong.append(case)
                except Exception as error:
                    errors.append(repr(error))

    threads = [Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, errors) == ([], [])
    assert state(model)[1:] == before[1:]
    disable(model)
    assert not {"generate", "forward"} & set(vars(model))


# -- nested calls --------------------------------------------------------------------------------


class Asking(StoppingCriteria):
    """Makes another call before every step, and never stops."""

    def __init__(self, ask):
        self.ask = ask
        self.said = []

    def __call__(self, input_ids, scores, **kwargs):
        self.said.append(self.ask())
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("settings", [Settings(KEPT), MASSED], ids=["plain", "massed"])
@pytest.mark.parametrize("what", ["text", "images", "unpruned", "forward", "next"])
@pytest.mark.parametrize("cached", [True, False])
def test_a_criterion_that_calls_the_model(model, inputs, settings, what, cached):
    text, other = FAMILIES["llava"].inputs((0,), seed=3), FAMILIES["llava"].inputs((1,), seed=3)
    with prune(model, settings):
        first = model.generate(**other, **LOGITS)
    more = longer(other, first.sequences)
    ask = {
        "text": lambda: model.generate(**text, **GREEDY),
        "images": lambda: model.generate(**other, **GREEDY),
        "unpruned": lambda: model.generate(**other, **GREEDY, otprune=None),
        "forward": lambda: model(**other).logits,
        "next": lambda: model.generate(
            **without_images(more),
            past_key_values=copy.deepcopy(first.past_key_values),
            **GREEDY,
        ),
    }[what]
    with prune(model, settings) as run:
        plain, alone = model.generate(**inputs, **LOGITS, use_cache=cached), ask()
        criterion = Asking(ask)
        nested = model.generate(
            **inputs,
            **LOGITS,
            use_cache=cached,
            stopping_criteria=StoppingCriteriaList([criterion]),
        )
        assert len(run.last) == 3  # of the outer call
    assert torch.equal(nested.sequences, plain.sequences)
    assert torch.equal(torch.stack(nested.logits), torch.stack(plain.logits))
    assert len(criterion.said) == 3
    assert all(torch.equal(said, alone) for said in criterion.said)


@pytest.mark.parametrize("settings", [Settings(KEPT), MASSED], ids=["plain", "massed"])
@pytest.mark.parametrize("draft", ["pruned", "unpruned", "itself"])
def test_a_draft_model_does_not_change_the_answer(model, settings, draft):
    inputs = FAMILIES["llava"].inputs((1,))
    torch.manual_seed(3)
    assistant = model if draft == "itself" else FAMILIES["llava"].model()
    if assistant is not model:
        for parameter in assistant.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    settings_of_draft = Settings(RandomPrune(0.2), mass="total")
    expected = ids_of(model, inputs, settings)
    if draft == "pruned":
        enable(assistant, settings_of_draft)
    assert torch.equal(ids_of(model, inputs, settings, assistant_model=assistant), expected)


def test_a_negative_prompt_between_blocks_of_two_models(model, inputs):
    other = FAMILIES["llava"].model()
    inputs = FAMILIES["llava"].inputs((2,))
    how = {"guidance_scale": 1.5, "negative_prompt_ids": torch.tensor([[1, 50, 51]])}
    with prune(model, MASSED):
        expected = model.generate(**inputs, **GREEDY, **how)
        with prune(other, KEPT):
            assert torch.equal(model.generate(**inputs, **GREEDY, **how), expected)


# -- other libraries -----------------------------------------------------------------------------


@pytest.fixture
def patched_attention(monkeypatch):
    """Wrap every shared attention function, as kvpress does on import."""
    functions = dict(ALL_ATTENTION_FUNCTIONS.items())

    def patch(function):
        def wrapper(module, query, key, value, attention_mask, dropout, **kwargs):
            return function(module, query, key, value, attention_mask, dropout, **kwargs)

        return wrapper

    monkeypatch.setattr(
        ALL_ATTENTION_FUNCTIONS,
        "_local_mapping",
        {name: patch(function) for name, function in functions.items()},
    )


def test_wrapped_attention_functions_apply_the_mass(model, inputs, request):
    with prune(model, MASSED):
        expected = model.generate(**inputs, **LOGITS)
    request.getfixturevalue("patched_attention")
    with prune(model, **otprune.recommended(0.3)):
        model.generate(**inputs, **GREEDY)
    with prune(model, MASSED):
        again = model.generate(**inputs, **LOGITS)
    assert torch.equal(torch.stack(again.logits), torch.stack(expected.logits))


# -- rows of a cache -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("settings", [Settings(KEPT), MASSED], ids=["plain", "massed"])
@pytest.mark.parametrize("move", ["select", "reorder", "repeat", "twice", "copied"])
def test_the_memory_is_reordered_with_its_cache(build, name, settings, move):
    model, inputs = build(name), FAMILIES[name].inputs((2, 1, 0))
    rows = {
        "select": [2, 0],
        "reorder": [1, 2, 0],
        "repeat": [0, 0, 1, 1, 2, 2],
        "twice": [1, 1, 0, 0],
        "copied": [1, 2],
    }[move]
    step = torch.tensor([[40], [41], [42]])
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(step)], dim=1)
    with prune(model, settings):
        expected = model(
            input_ids=step, attention_mask=mask, past_key_values=model(**inputs).past_key_values
        ).logits[rows]
        cache = model(**inputs).past_key_values
        if move == "select":
            cache.batch_select_indices(torch.tensor(rows))
        elif move == "reorder":
            cache.reorder_cache(torch.tensor(rows))
        elif move == "repeat":
            cache.batch_repeat_interleave(2)
        elif move == "twice":
            cache.reorder_cache(torch.tensor([1, 0, 2]))
            cache.batch_repeat_interleave(2)
            cache.batch_select_indices(torch.tensor([0, 1, 2, 3]))
        else:
            whole, cache = cache, copy.deepcopy(cache)
            cache.batch_select_indices(torch.tensor(rows))
            assert len(recall(whole).ids) == 3
        out = model(input_ids=step[rows], attention_mask=mask[rows], past_key_values=cache)
    torch.testing.assert_close(out.logits, expected, rtol=0, atol=1e-4)


def test_a_static_cache_that_is_too_small_is_refused_beforehand(model, inputs):
    with prune(model, KEPT):
        first = model.generate(**inputs, **LOGITS, cache_implementation="static")
        whole = longer(inputs, torch.cat([first.sequences, torch.full((3, 9), 50)], dim=1))
        with pytest.raises(OTPruneError, match=r"static cache holds \d+ tokens.*may take \d+"):
            model.generate(**without_images(whole), past_key_values=first.past_key_values, **GREEDY)


def test_a_cache_used_by_two_prompts_in_turn(model, inputs):
    cache = DynamicCache()
    with prune(model, MASSED):
        model.generate(**inputs, **GREEDY, past_key_values=cache)
        with pytest.raises(UnsupportedError, match="not empty"):
            model.generate(**inputs, **GREEDY, past_key_values=cache)
        cache.crop(-cache.get_seq_length())
        again = model.generate(**inputs, **GREEDY, past_key_values=cache)
        assert torch.equal(again, model.generate(**inputs, **GREEDY))


# -- compiled models -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("settings", [Settings(KEPT), MASSED], ids=["plain", "massed"])
def test_generate_may_compile_its_steps(model, settings):
    """As generate() does with a static cache on a GPU."""
    torch._dynamo.reset()
    config = CompileConfig(backend="eager", fullgraph=False)
    config._compile_all_devices = True
    how = {"cache_implementation": "static", "compile_config": config}
    with prune(model, settings):
        for seed in (1, 2):
            batch = FAMILIES["llava"].inputs(seed=seed)
            expected = model.generate(**batch, **GREEDY)
            assert torch.equal(model.generate(**batch, **GREEDY, **how), expected)


@pytest.mark.slow
@pytest.mark.parametrize("order", [("plain", "massed"), ("massed", "plain")])
def test_a_compiled_forward_keeps_no_masses(model, order):
    """Masses are not part of the compiled graph, so a prompt never gets those of another."""
    torch._dynamo.reset()
    settings = {"plain": Settings(KEPT), "massed": MASSED}
    batches = [FAMILIES["llava"].inputs(seed=seed) for seed in (1, 2)]
    expected = {}
    for which in order:
        with prune(model, settings[which]):
            expected[which] = [model(**batch).logits for batch in batches]
    model.forward = torch.compile(model.forward, backend="eager")
    wrong = 0
    for which in order:
        with prune(model, settings[which]):
            for batch, logits in zip(batches, expected[which], strict=True):
                with suppress(UnsupportedError):  # refused, so the mass is not lost
                    got = model(**batch).logits
                    wrong += not torch.allclose(got, logits, rtol=0, atol=1e-4)
    assert wrong == 0
