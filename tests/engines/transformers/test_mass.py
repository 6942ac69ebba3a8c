"""Attention mass: which calls it applies to, cached prompts, attention functions, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import flash_attention_mask, sdpa_mask

from otprune import OTPruneError, RandomPrune, TransportPrune, UnsupportedError, recommended
from otprune.engines.transformers import attention, prune
from tests.engines.transformers.kept import TOLERANCE
from tests.engines.transformers.test_conversation import (
    GREEDY,
    NEW,
    longer,
    without_images,
)
from tests.engines.transformers.test_run import state
from tests.families.base import images_in
from tests.families.reference import check_encoder_gradients, language_model, reference_logits
from tests.families.test_distance import expected
from tests.families.test_mass import check, copies
from tests.families.tiny import FAMILIES

SELECTOR = TransportPrune(0.3)
pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


def implementations(model):
    """The attention implementation in every module's config."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return {key: config._attn_implementation for key, config in configs.items()}


@pytest.fixture
def llava(build):
    """A model that the test must leave unchanged."""
    model = build("llava")
    model.generate(
        **inputs_of(model), **GREEDY
    )  # sets attributes that transformers itself leaves on a model
    before = state(model), implementations(model)
    interface = AttentionInterface.get_interface
    yield model
    assert (state(model), implementations(model)) == before
    assert AttentionInterface.get_interface is interface
    assert "__getitem__" not in vars(AttentionMaskInterface)


def inputs_of(model, images=(1, 2, 0)):
    return FAMILIES[model.config.model_type].inputs(images)


# -- which calls have mass ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{"mass": "none"}, {"mass": "token", "alpha": 0}, {"mass": "token", "keep": 1.0}]
)
def test_without_mass_no_attention_is_patched(llava, how, monkeypatch):
    how = dict(how)
    selector = TransportPrune(how.pop("keep", 0.3))
    inputs = inputs_of(llava)
    with prune(llava, selector):
        plain = llava(**inputs).logits, llava.generate(**inputs, **GREEDY).sequences
    monkeypatch.setattr(attention._interfaces, "enter", None)
    with prune(llava, selector, **how):
        assert torch.equal(llava(**inputs).logits, plain[0])
        assert torch.equal(llava.generate(**inputs, **GREEDY).sequences, plain[1])


def test_a_call_without_images_has_no_mass(llava):
    inputs, text = inputs_of(llava), inputs_of(llava, (0, 0))
    plain = llava(**text).logits, llava.generate(**text, **GREEDY)
    with prune(llava, SELECTOR, mass="token"):
        for _ in range(2):
            assert torch.equal(llava(**text).logits, plain[0])
            assert torch.equal(llava.generate(**text, **GREEDY).sequences, plain[1].sequences)
            llava(**inputs)
            assert implementations(llava) == dict.fromkeys(implementations(llava), "sdpa")
            llava.generate(**inputs, **GREEDY)


def test_the_image_encoder_has_no_mass(llava):
    inputs, features = inputs_of(llava), []
    for mass in ("none", "token"):
        with prune(llava, SELECTOR, mass=mass) as run:
            llava(**inputs)
            features.append(torch.cat([item.features for item in run.last]))
    assert torch.equal(*features)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_call_leaves_no_patch(llava, error, monkeypatch):
    inputs, text = inputs_of(llava), inputs_of(llava, (0,))
    plain = llava(**text).logits

    def fail(*args, **kwargs):
        raise error

    with prune(llava, SELECTOR, mass="token"):
        wanted = llava(**inputs).logits
        for call in (llava, llava.generate):
            with monkeypatch.context() as patch:
                patch.setattr(llava.lm_head, "forward", fail)
                with pytest.raises(error):
                    call(**inputs)
            assert torch.equal(llava(**text).logits, plain)
            assert torch.equal(llava(**inputs).logits, wanted)


def test_mass_in_two_models_at_once(llava):
    other = FAMILIES["qwen2_5_vl"].model("eager")
    mine, others = inputs_of(llava), inputs_of(other)
    with prune(llava, SELECTOR, mass="token"):
        wanted = llava(**mine).logits
    with prune(other, SELECTOR):
        plain = other(**others).logits
    with prune(llava, SELECTOR, mass="token"), prune(other, SELECTOR):
        for _ in range(2):
            assert torch.equal(llava(**mine).logits, wanted)
            assert torch.equal(other(**others).logits, plain)


def test_a_negative_prompt_has_no_mass(llava):
    inputs = inputs_of(llava, (2,))
    negative = torch.arange(40, 70)[None]  # as long as the pruned prompt with its images
    how = {**GREEDY, "guidance_scale": 1.5, "negative_prompt_ids": negative}
    with prune(llava, SELECTOR, mass="token"):
        massed = llava.generate(**inputs, **GREEDY)
        guided = llava.generate(**inputs, **how, output_scores=True)
        uncached = llava.generate(**inputs, **how, use_cache=False)
    assert torch.equal(guided.sequences, uncached.sequences)
    whole = llava(input_ids=negative).logits[0, -1].log_softmax(-1)
    conditional = massed.logits[0][0].log_softmax(-1)
    wanted = 1.5 * (conditional - whole) + whole
    allowed = guided.scores[0][0].isfinite()
    torch.testing.assert_close(guided.scores[0][0][allowed], wanted[allowed], rtol=0, atol=1e-4)


@pytest.mark.parametrize("how", ["prompt_lookup_num_tokens", "cache_implementation"])
def test_mass_without_padding(build, how):
    """transformers makes no mask then, except for the bias. Rejected guesses are removed again."""
    model, inputs = build("qwen2_vl"), FAMILIES["qwen2_vl"].inputs((2,))
    value = {"prompt_lookup_num_tokens": 2, "cache_implementation": "static"}[how]
    with prune(model, SELECTOR, mass="token"):
        wanted = model.generate(**inputs, **GREEDY).sequences
        assert torch.equal(model.generate(**inputs, **GREEDY, **{how: value}).sequences, wanted)


# -- continuing on a cache ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_mass_persists_in_the_next_turn(build, name):
    model, inputs = build(name), FAMILIES[name].inputs()
    with prune(model, SELECTOR, mass="token") as run:
        first = model.generate(**inputs, **GREEDY)
        items = run.last
        ids = torch.cat([first.sequences, NEW.expand(3, -1)], dim=1)
        whole = longer(inputs, ids)
        cache = first.past_key_values
        second = model.generate(**without_images(whole), past_key_values=cache, **GREEDY)
    said = second.sequences[:, inputs["input_ids"].shape[1] : -1]
    wanted = reference_logits(model, inputs, copies(inputs, items), "preserved", said)
    for row, logits in enumerate(wanted):
        got = torch.stack([step[row] for step in second.logits])
        torch.testing.assert_close(got, logits[-len(got) :], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_mass_persists_in_forward_with_new_tokens(build, name):
    model, inputs = build(name), FAMILIES[name].inputs()
    new = NEW.expand(3, -1)
    whole = longer(inputs, torch.cat([inputs["input_ids"], new], dim=1))
    with prune(model, SELECTOR, mass="token") as run:
        cache = model(**inputs).past_key_values
        out = model(input_ids=new, attention_mask=whole["attention_mask"], past_key_values=cache)
    wanted = reference_logits(model, inputs, copies(inputs, run.last), "preserved", new)
    for row, logits in enumerate(wanted):
        torch.testing.assert_close(out.logits[row], logits[-3:], rtol=0, atol=TOLERANCE)


def test_a_cache_keeps_the_mass_that_it_was_made_with(llava):
    """Also in another with block, whatever the mass of its own images."""
    inputs, cache = inputs_of(llava), DynamicCache()
    with prune(llava, SELECTOR, mass="token"):
        first = llava.generate(**inputs, **GREEDY, past_key_values=cache)
    whole = longer(inputs, torch.cat([first.sequences, NEW.expand(3, -1)], dim=1))
    answers = []
    for mass in ("token", "none", "total"):
        with prune(llava, RandomPrune(0.9), mass=mass):
            out = llava.generate(
                **without_images(whole), **GREEDY, past_key_values=copy.deepcopy(cache)
            )
        answers.append(torch.stack(out.logits))
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])
    with prune(llava, SELECTOR):
        first = llava.generate(**inputs, **GREEDY)
        plain = llava.generate(
            **without_images(whole), **GREEDY, past_key_values=first.past_key_values
        )
    assert not torch.allclose(torch.stack(plain.logits), answers[0], atol=0.1)


# -- other attention functions -----------------------------------------------------------------


@pytest.fixture
def interfaces(monkeypatch):
    """Undo registrations of attention functions after the test."""
    for interface in (AttentionInterface, AttentionMaskInterface):
        monkeypatch.setattr(interface, "_global_mapping", dict(interface._global_mapping))


def choose(model, name):
    """Set the attention implementation of the text layers only."""
    for module in language_model(model).modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = name
    model.config.get_text_config()._attn_implementation_internal = name


def flash_kernel(query, key, value, mask, *, is_causal, softmax_scale, sliding_window, **rest):
    """Flash attention in torch: heads last, a mask over keys, causal from the last key."""
    assert rest["attn_implementation"] == "flash_attention_of_a_test"
    assert query.shape[-1] % 8 == key.shape[-1] % 8 == 0
    assert query.shape[-1] == value.shape[-1]
    q, n = query.shape[1], key.shape[1] if mask is None else mask.shape[1]
    query, key, value = (x.transpose(1, 2) for x in (query, key[:, :n], value[:, :n]))
    at = torch.arange(n - q, n)[:, None] - torch.arange(n)
    seen = (at >= 0) & (at < (sliding_window or n)) if is_causal else at < n
    if mask is not None:
        seen = seen & mask[:, None, None].bool()
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=softmax_scale, enable_gqa=True
    )
    return out.transpose(1, 2)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen3_vl", "internvl", "mistral3"])
def test_flash_attention_with_its_kernel_replaced(name, interfaces, monkeypatch):
    """Only the kernel is replaced; everything around it is transformers' and otprune's."""
    monkeypatch.setattr(
        "transformers.integrations.flash_attention._flash_attention_forward", flash_kernel
    )
    AttentionInterface.register("flash_attention_of_a_test", flash_attention_forward)
    AttentionMaskInterface.register("flash_attention_of_a_test", flash_attention_mask)
    model, inputs = FAMILIES[name].model(), FAMILIES[name].inputs()
    results = []
    for chosen in ("sdpa", "flash_attention_of_a_test"):
        choose(model, chosen)
        with prune(model, SELECTOR, positions="compact", mass="token") as run:
            out = model.generate(**inputs, **GREEDY)
            results.append((out.sequences, torch.stack(out.logits)))
            assert [item.after for item in run.last] == [SELECTOR.count(i.before) for i in run.last]
            assert len(run.last) == len(images_in(inputs["input_ids"]))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_flex_attention():
    """Compiles for about a minute."""
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs()
    with prune(model, SELECTOR, mass="token") as run:
        wanted = model(**inputs).logits
        real = inputs["attention_mask"].sum(dim=1) - sum_dropped(run.last, 3)
    choose(model, "flex_attention")
    with prune(model, SELECTOR, mass="token"):
        got = model(**inputs).logits
    for b, n in enumerate(real.tolist()):
        torch.testing.assert_close(got[b, -n:], wanted[b, -n:], rtol=0, atol=TOLERANCE)


def sum_dropped(items, rows):
    return torch.tensor([sum(x.before - x.after for x in items if x.row == b) for b in range(rows)])


def test_flex_attention_is_given_a_score_modification():
    """In the shape that transformers' function takes: a bias for every query and head."""
    seen = {}

    def flex(module, query, key, value, mask, position_bias=None, **kwargs):
        seen.update(kwargs, bias=position_bias, mask=mask)

    rows = torch.tensor([[0.0, 2.0, 3.0]])
    query, key = torch.zeros(2, 4, 5, 8), torch.zeros(2, 2, 4, 8)
    key_bias = attention.KeyBias(None, rows)
    attention._add_as_score(flex, key_bias, None, query, key, key, "a block mask", scaling=0.5)
    assert seen["bias"].shape == (2, 4, 5, 4)
    assert torch.equal(seen["bias"], torch.tensor([0.0, 2.0, 3.0, 0.0]).expand(2, 4, 5, 4))
    assert (seen["mask"], seen["scaling"]) == ("a block mask", 0.5)
    attention._add_as_score(flex, key_bias, None, query, key, key, None, position_bias=seen["bias"])
    assert torch.equal(seen["bias"][1, 3, 4], torch.tensor([0.0, 4.0, 6.0, 0.0]))
    with pytest.raises(UnsupportedError, match="flex_attention takes no bias"):
        attention._add_as_score(lambda module, mask: 0, key_bias, None, query, key, key, None)


def test_the_attention_implementation_may_change_inside_the_block():
    model, inputs = FAMILIES["llava"].model("sdpa"), FAMILIES["llava"].inputs()
    with prune(model, SELECTOR, mass="token"):
        model.generate(**inputs, **GREEDY)
        model.set_attn_implementation("eager")
        model.generate(**inputs, **GREEDY)
    assert set(implementations(model).values()) == {"eager"}
    check(model, inputs, "token", 1.0, "preserved")


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"mass": "tokens"}, {"mass": None}, {"mass": "token", "alpha": -1}, {"alpha": "1"}]
)
def test_wrong_arguments(llava, wrong):
    with pytest.raises(OTPruneError, match=f"^{list(wrong)[-1]}="), prune(llava, SELECTOR, **wrong):
        pass


def test_an_unknown_attention_function_is_refused(interfaces):
    AttentionInterface.register("mine", lambda *args, **kwargs: None)
    AttentionMaskInterface.register("mine", sdpa_mask)
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs()
    choose(model, "mine")
    why = r"attention implementation 'mine': use model.set_attn_implementation\('sdpa'\)"
    with pytest.raises(UnsupportedError, match=why), prune(model, SELECTOR, mass="total"):
        pass
    choose(model, "sdpa")
    with prune(model, SELECTOR, mass="token"):
        first = model.generate(**inputs, **GREEDY)
        choose(model, "mine")  # after the check on entering the block
        with pytest.raises(UnsupportedError, match=why):
            model(**inputs)
    whole = longer(inputs, first.sequences)
    more = {**without_images(whole), "past_key_values": first.past_key_values}
    with prune(model, SELECTOR), pytest.raises(UnsupportedError, match=why):
        model.generate(**more, **GREEDY)


@pytest.mark.parametrize("kind", ["linear_attention", "conv", "compressed_sparse_attention"])
def test_layer_types_without_token_keys_are_refused(kind):
    model = FAMILIES["llava"].model()
    language_model(model).config.layer_types = ["full_attention", kind]
    with pytest.raises(UnsupportedError, match=kind), prune(model, SELECTOR, mass="token"):
        pass
    with prune(model, SELECTOR):
        pass


def test_sparse_layers_with_an_indexer_are_refused():
    model = FAMILIES["llava"].model()
    language_model(model).layers[1].self_attn.indexer = torch.nn.Linear(1, 1)
    why = "choose the tokens they attend to"
    with pytest.raises(UnsupportedError, match=why), prune(model, SELECTOR, mass="token"):
        pass


def test_layers_that_bypass_the_attention_interface_are_refused(monkeypatch):
    """Their mass would be lost."""
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs()
    layer = language_model(model).layers[1].self_attn
    monkeypatch.setattr(layer, "forward", lambda hidden_states, **_: (hidden_states, None))
    with prune(model, SELECTOR, mass="token"):
        for call in (model, model.generate):
            with pytest.raises(UnsupportedError, match="in only 1 of 2 layers"):
                call(**inputs)
            assert set(implementations(model).values()) == {"sdpa"}


def test_gradient_checkpointing_is_refused():
    model = FAMILIES["llava"].model().train()
    model.gradient_checkpointing_enable()
    why = "gradient_checkpointing_disable"
    with pytest.raises(UnsupportedError, match=why), prune(model, SELECTOR, mass="token"):
        pass


def test_gradients_include_the_mass():
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs((1, 1))
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with prune(model, SELECTOR, mass="token"):
        check_encoder_gradients(model, inputs, lambda given: model(**given, labels=labels).loss)


def test_a_soft_cap_with_flash_attention_is_refused():
    query = torch.zeros(1, 1, 2, 8)
    key_bias = attention.KeyBias(None, torch.zeros(1, 2))
    with pytest.raises(UnsupportedError, match="softcap"):
        attention._add_as_features(None, key_bias, None, query, query, query, None, softcap=30.0)


# -- the distance term --------------------------------------------------------------------------


def test_an_image_that_keeps_every_token_has_no_distance_term(build):
    model, inputs = build("qwen2_5_vl"), FAMILIES["qwen2_5_vl"].inputs((1, 2, 0))
    selector = TransportPrune(12)  # of 16, 12 and 6 tokens
    with prune(model, selector, distance=True) as run:
        logits = model(**inputs).logits
    assert [(x.before, x.after) for x in run.last] == [(16, 12), (12, 12), (6, 6)]
    nothing = torch.zeros(3, 0, dtype=torch.long)
    wanted = expected(model, inputs, run.last, "none", 1.0, "preserved", nothing)
    for b, row in enumerate(wanted):
        torch.testing.assert_close(logits[b, -len(row) :], row, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_the_next_turn_and_steps_by_hand_have_the_distance_term(build, name):
    """Text behind a pruned prompt, token by token and in generate()."""
    model, inputs = build(name), FAMILIES[name].inputs((1, 2, 0))
    new = NEW.expand(3, -1)
    with prune(model, SELECTOR, mass="token", distance=True) as run:
        first = model(**inputs)
        items = run.last
        steps = [
            model(input_ids=new[:, i : i + 1], past_key_values=first.past_key_values).logits
            for i in range(new.shape[1])
        ]
        cache = model(**inputs).past_key_values
        whole = longer(inputs, torch.cat([inputs["input_ids"], new], dim=1))
        turn = model.generate(**without_images(whole), past_key_values=cache, **GREEDY)
    wanted = expected(model, inputs, items, "token", 1.0, "preserved", new)
    for b, row in enumerate(wanted):
        by_hand = torch.cat([step[b] for step in steps])
        torch.testing.assert_close(by_hand, row[-new.shape[1] :], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(turn.logits[0][b], row[-1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("distance", [1, "yes", None])
def test_distance_is_true_or_false(build, distance):
    with pytest.raises(OTPruneError, match=r"distance=.*expected True, False or"):
        prune(build("llava"), SELECTOR, distance=distance)


@pytest.mark.parametrize("name", ["llava", "paligemma"])
def test_distance_auto_is_the_term_where_it_is_exact(build, name):
    """PaliGemma takes none: its generate() shifts positions by one."""
    model, inputs = build(name), FAMILIES[name].inputs((1,))
    exact = name == "llava"
    with prune(model, SELECTOR, mass="token", positions="preserved", distance="auto") as run:
        auto = model(**inputs).logits
    assert run.distance == exact
    with prune(model, SELECTOR, mass="token", positions="preserved", distance=exact) as run:
        assert torch.equal(model(**inputs).logits, auto)
    assert run.distance == exact
    with prune(model, **recommended(0.5)):
        model(**inputs)


def test_the_scheme_of_a_call_is_reported(build):
    llava, qwen = build("llava"), build("qwen2_5_vl")
    for model, how, wanted in (
        (llava, {}, "compact"),
        (llava, {"mass": "token", "alpha": 0}, "compact"),
        (llava, {"mass": "total"}, "preserved"),
        (llava, {"distance": True}, "preserved"),
        (llava, {"mass": "total", "positions": "compact"}, "compact"),
        (qwen, {}, "preserved"),
    ):
        inputs = FAMILIES[model.config.model_type].inputs((1,))
        with prune(model, SELECTOR, **how) as run:
            assert run.positions is None
            model(**inputs)
            assert run.positions == wanted
            model.generate(**inputs, max_new_tokens=1)
            assert run.positions == wanted
            model(input_ids=NEW[:1])
            assert run.positions is None
