"""Budgets, limits, selections and refusals of a plan, on the embedded model's config."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

import otprune
from otprune import DivPrune, EncoderStage, GridPrune, OTPrune, OTPruneError, UnsupportedError
from otprune.demo import MODEL_DIR
from otprune.engines.transformers.encoded import encode_call
from otprune.errors import KeepError
from otprune.planning import Rates
from otprune.planning.selection import LARGEST, selection_flops
from otprune.planning.sizes import Sizes
from tools.small_models import small

from .checks import SIZES, counted, inputs, model, planned, processor

SIZE = (640, 480)


@pytest.fixture(scope="module")
def plan() -> otprune.Plan:
    return otprune.plan(None, SIZE, text=50, answer=20, keep=0.1)


def test_a_plan_of_the_embedded_model(plan: otprune.Plan) -> None:
    before, after = plan.before, plan.after
    assert (before.visual_tokens, after.visual_tokens) == (144, 14)
    assert before.prompt_tokens - after.prompt_tokens == 130
    assert before.encoder == after.encoder == plan.least.encoder > 0
    assert before.selection == 0 < after.selection
    # 4 layers, 4 heads of 32, float32: the prompt and all of the answer but its last token
    held = before.prompt_tokens + 19
    assert before.cache_bytes == otprune.kv_cache_bytes(4, 4, 32, held, 4)
    assert plan.dtype == "float32"
    assert plan.pays
    assert sum(plan.shares.values()) == pytest.approx(1)


def test_the_limit_is_amdahls(plan: otprune.Plan) -> None:
    assert 1 < plan.speed_up < plan.speed_up_at_most
    visual = plan.shares["visual tokens in the prefill"]
    assert plan.speed_up_at_most == pytest.approx(1 / (1 - visual))
    assert plan.stops_at == "the encoder"
    few = otprune.plan(None, SIZE, text=50, answer=20, keep=1, method="grid")
    assert few.speed_up == pytest.approx(plan.speed_up_at_most, rel=0.02)
    assert otprune.plan(None, SIZE, text=5000, keep=0.5).stops_at == "the text"


def test_decoding_is_step_by_step() -> None:
    whole = [
        otprune.plan(None, SIZE, text=50, answer=answer, method="grid").before.decode
        for answer in (1, 2, 3)
    ]
    assert whole[0] == 0
    # One more key: 4 layers, 4 heads of 32, two products.
    assert (whole[2] - whole[1]) - whole[1] == 4 * 4 * 4 * 32


def test_a_step_of_decoding_is_a_prefill_of_one_token_behind_a_cache() -> None:
    """Several tokens at once, since torch counts no attention of a single query on a CPU."""
    for name in ("llava", "gemma3"):
        given = inputs(name, [SIZE])
        _, cache = counted(name, given)
        n, new = given["input_ids"].shape[1], 3
        ids = torch.full((1, new), 5)
        mask = torch.ones(1, n + new, dtype=torch.long)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(name)(input_ids=ids, attention_mask=mask, past_key_values=cache, logits_to_keep=1)
        config = model(name).config.get_text_config()
        pair = 4 * config.num_attention_heads * config.head_dim
        keys = [n + new, n + new]
        if name == "gemma3":  # what is kept of a window of 12, and the new tokens
            keys = [11 + new, n + new]
        attention = sum(pair * new * k for k in keys)
        first = planned(name, SIZE)
        made = planned(name, SIZE, text=n - first.before.visual_tokens - first.around, answer=2)
        seen = [min(n + 1, 12) if name == "gemma3" else n + 1, n + 1]
        head = 2 * config.hidden_size * config.vocab_size
        linear = made.before.decode - head - sum(pair * k for k in seen)
        assert counter.get_total_flops() == new * linear + attention + head


def test_budgets_find_the_largest_keep() -> None:
    budget = 16 * 2**20
    found = otprune.plan(None, SIZE, cache_budget=budget, requests=16)
    assert 16 * found.after.cache_bytes <= budget
    assert found.requests_in(budget) >= 16 > found.requests_in(budget, "before")
    more = otprune.plan(None, SIZE, keep=found.after.visual_tokens + 1)
    assert 16 * more.after.cache_bytes > budget
    timed = otprune.plan(None, SIZE, share=0.7, method="grid")
    assert timed.after.first_token <= 0.7 * timed.before.first_token
    more = otprune.plan(None, SIZE, keep=timed.after.visual_tokens + 1, method="grid")
    assert more.after.first_token > 0.7 * more.before.first_token
    rates = Rates(1e12, 1e11)
    seconds = 0.7 * timed.before.first_token_seconds(rates)
    assert otprune.plan(None, SIZE, seconds=seconds, rates=rates, method="grid").keep == timed.keep
    both = otprune.plan(None, SIZE, share=0.7, cache_budget=870 * 2**10, method="grid")
    assert both.keep < timed.keep
    assert both.after.cache_bytes <= 870 * 2**10
    assert otprune.plan(None, SIZE, cache_budget=2**40).keep == 1.0


def test_budgets_that_nothing_fits_say_why() -> None:
    with pytest.raises(OTPruneError, match=r"text and answer of 9 requests alone take .* MiB"):
        otprune.plan(None, SIZE, cache_budget=2**20, requests=9)
    with pytest.raises(OTPruneError, match=r"the encoder takes 40% and the text 21%.*30% are all"):
        otprune.plan(None, SIZE, share=0.3)


def test_a_stage_inside_the_encoder() -> None:
    stage = EncoderStage(selector=GridPrune(0.5), after=1)
    for name in ("llava_next", "idefics3"):
        given = inputs(name, [SIZES["square"]])
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encode_call(model(name), given, stage)
        found = planned(name, SIZES["square"], encoder=stage, method="grid")
        assert found.after.encoder + found.after.selection == counter.get_total_flops()
        assert found.least.encoder == found.after.encoder < found.before.encoder
        assert found.before.encoder == planned(name, SIZES["square"]).before.encoder


@pytest.mark.parametrize("method", otprune.METHODS)
def test_the_selection_of_every_method_is_counted(method: str) -> None:
    flops, exact = selection_flops(otprune.METHODS[method](0.2), 144, 1024)
    assert exact
    assert 0 <= flops <= 6 * 144**2 * 1024  # three products of all pairs
    assert (flops == 0) == (method in POSITIONAL)


# Of no matrix product.
POSITIONAL = {"norm", "grid", "random", "fastervlm", "visionzip", "prumerge", "prumerge+"}


@pytest.mark.parametrize("selector", [OTPrune(0.1), DivPrune(0.1), otprune.DPPPrune(200)], ids=str)
def test_a_large_selection_is_estimated(selector: otprune.Selector) -> None:
    m, d = 2 * LARGEST, 64
    estimate, exact = selection_flops(selector, m, d)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(m, d, generator=generator) + torch.randn(d, generator=generator)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        selector.select(tokens)
    assert not exact
    assert 0.4 * counter.get_total_flops() <= estimate <= 2.5 * counter.get_total_flops()


def test_nothing_is_selected_where_all_is_kept() -> None:
    assert selection_flops(OTPrune(1.0), 99, 32) == (0, True)


def test_methods_as_names_classes_selectors_and_presets() -> None:
    named = otprune.plan(None, SIZE, method="divprune", keep=0.2)
    assert otprune.plan(None, SIZE, method=DivPrune, keep=0.2) == named
    assert otprune.plan(None, SIZE, method=DivPrune(0.2)) == named
    preset = otprune.plan(None, SIZE, method=otprune.recommended(0.2))
    assert preset.method == otprune.SimplexPrune(0.2)
    alone = otprune.plan(None, SIZE, method="simplex", keep=0.2)
    assert preset.after.selection > alone.after.selection  # merging assigns every token


def test_it_reads_well_and_comes_as_plain_values(plan: otprune.Plan) -> None:
    said = str(plan)
    assert said.startswith("the embedded model (llava)  otprune (keep=0.1")
    assert "one image of 640x480, 50 tokens of text, an answer of 20" in said
    assert "visual tokens" in said
    assert f"{plan.speed_up_at_most:.2f} at most" in said
    values = json.loads(json.dumps(plan.to_dict()))
    assert values["after"]["visual_tokens"] == 14
    assert values["visual"] == [{"unit": "image", "before": 144, "after": 14}]
    timed = otprune.plan(None, SIZE, rates=Rates(1e12, 1e11), cache_budget=2**30).to_dict()
    assert timed["before"]["requests"] > 100
    assert timed["before"]["first_token_seconds"] == timed["before"]["encoder"] / 1e12 + (
        timed["before"]["prefill"] / 1e12
    )


def test_a_folder_without_weights_is_enough(tmp_path: Path) -> None:
    for path in MODEL_DIR.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, tmp_path)
    found = otprune.plan(tmp_path, SIZE)
    assert (found.before.visual_tokens, found.dtype) == (144, "float16")
    with pytest.raises(OTPruneError, match="no such folder"):
        otprune.plan(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"image": (0, 5)}, "0x5 has no pixels"),
        ({"image": (1920,)}, r"image=\(1920,\): expected \(width, height\)"),
        ({"image": []}, "no image"),
        ({"image": (30_000, 30_000)}, "more than the 178,956,970"),
        ({"image": [(9000, 9000)] * 20}, "pixels in all"),
        ({"image": (640.0, 480)}, r"expected \(width, height\)"),
        ({"frames": 8}, "knows no video .* plan for its frames as images"),
        ({"frames": 0}, "frames=0"),
        ({"frames": 2, "image": [(9, 9), (8, 8)]}, "one video is planned for at a time"),
        ({"text": -1}, "text=-1: expected a whole number, 0 or more"),
        ({"answer": 0}, "answer=0"),
        ({"requests": 1.5}, "requests=1.5"),
        ({"dtype": "int4"}, "dtype='int4'"),
        ({"method": "nothing"}, "no method 'nothing'"),
        ({"share": 0.0}, "share=0.0: expected a number above 0"),
        ({"share": math.inf}, "share=inf: expected a number above 0"),
        ({"seconds": 1.0}, "seconds= needs rates="),
        ({"requests": 2}, "requests=2 belongs to a cache_budget"),
        ({"model": AutoConfig.for_model("llava")}, "pass its processor too"),
    ],
)
def test_what_is_wrong_is_said(how: dict[str, Any], said: str) -> None:
    with pytest.raises(OTPruneError, match=said):
        otprune.plan(**{"image": SIZE} | how)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_rates_are_numbers_above_0(value: float) -> None:
    with pytest.raises(OTPruneError, match=r"flops=.*: expected a number above 0"):
        Rates(value, 1e12)
    with pytest.raises(OTPruneError, match=r"bandwidth=.*: expected a number above 0"):
        Rates(1e12, value)


@pytest.mark.parametrize("keep", ["auto", otprune.Auto(), otprune.Budget(0.5), 0, 1.5])
def test_a_keep_that_sizes_do_not_tell_is_refused(keep: Any) -> None:
    with pytest.raises(KeepError):
        otprune.plan(None, SIZE, keep=keep)
    with pytest.raises(KeepError, match="give one of them"):
        otprune.plan(None, SIZE, keep=0.5, cache_budget=2**20)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("llama", "no model can be built from this config"),
        ("blip-2", "once more"),
        ("mllama", "takes no mm_encoder_outputs"),
    ],
)
def test_models_that_cannot_be_pruned_are_refused_with_the_reason(kind: str, said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        otprune.plan(AutoConfig.for_model(kind), SIZE, processor=processor("llava"))


def test_of_a_mixture_of_experts_those_count_that_a_token_is_sent_to() -> None:
    name = "Qwen3VLMoeForConditionalGeneration"
    moe = small(getattr(transformers, name))
    config = moe.config.get_text_config()
    dense = sum(
        matrix.numel()
        for path, matrix in moe.get_decoder().named_parameters()
        if ("self_attn" in path and "proj" in path) or path.endswith("gate.weight")
    )
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    sent = config.num_hidden_layers * config.num_experts_per_tok * expert
    assert Sizes(moe.config, torch.float32).language().token_flops == 2 * (dense + sent)


def test_layers_whose_cost_does_not_follow_from_a_number_of_tokens_are_refused() -> None:
    config = small(transformers.Qwen3_5ForConditionalGeneration).config
    with pytest.raises(UnsupportedError, match="1 of its 4 layers are plain attention"):
        Sizes(config, torch.float32).language()


def test_a_small_plan_says_that_operations_are_no_seconds() -> None:
    few = otprune.plan(keep=0.1)
    assert few.pays
    assert "measure whether it pays in time" in str(few)
    large = replace(few, before=replace(few.before, prefill=10**11))
    assert "measure whether" not in str(large)
