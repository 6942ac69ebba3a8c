"""Every core family x attention x prompt: exact at keep=1, equal to the reference below."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from otprune import OTPrune, RandomPrune
from otprune.engines.transformers import prune
from tests.engines.transformers.reference import TOLERANCE, kept_columns, reference_logits
from tests.families.tiny import FAMILIES

CORE = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PROMPTS: dict[str, dict[str, Any]] = {
    "one image": {"images": (1,)},
    "1, 2 and 0 images": {"images": (1, 2, 0)},
    "video": {"images": (1, 0), "video": True},
}
CASES = [
    pytest.param(name, prompt, attention, id=f"{name}-{prompt}-{attention}")
    for name in CORE
    for prompt in PROMPTS
    for attention in ("sdpa", "eager")
    if prompt != "video" or FAMILIES[name].has_video
]
GREEDY = {
    "max_new_tokens": 5,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
}


@pytest.mark.parametrize(("name", "prompt", "attention"), CASES)
@pytest.mark.parametrize("merge", [False, True], ids=["rows", "merged"])
@torch.no_grad()
def test_keeping_everything_changes_no_bit(build, name, prompt, attention, merge):
    model, inputs = build(name, attention), FAMILIES[name].inputs(**PROMPTS[prompt])
    answer, logits = model.generate(**inputs, **GREEDY), model(**inputs).logits
    with prune(model, OTPrune(1.0), merge=merge) as run:
        pruned = model.generate(**inputs, **GREEDY)
        assert torch.equal(model(**inputs).logits, logits)
    assert torch.equal(pruned.sequences, answer.sequences)
    assert all(map(torch.equal, pruned.logits, answer.logits))
    assert all(item.after == item.before for item in run.last)


@pytest.mark.parametrize(("name", "prompt", "attention"), CASES)
@pytest.mark.parametrize("positions", ["preserved", "compact"])
@torch.no_grad()
def test_equal_to_the_reference(build, name, prompt, attention, positions):
    model, inputs = build(name, attention), FAMILIES[name].inputs(**PROMPTS[prompt])
    selector = RandomPrune(0.4)
    with prune(model, selector, positions=positions) as run:
        answer = model.generate(**inputs, **GREEDY)
        report = run.last
        forward = model(**inputs)
        cacheless = model(**inputs, use_cache=False).logits
    assert all(item.after == selector.count(item.before) for item in report)
    keep = kept_columns(inputs, report)
    n, full = int(keep.sum(dim=1).max()), inputs["input_ids"].shape[1]
    assert n < full
    assert forward.past_key_values.get_seq_length() == n
    assert answer.past_key_values.get_seq_length() == n + GREEDY["max_new_tokens"] - 1

    for row, expected in enumerate(reference_logits(model, inputs, keep, positions)):
        torch.testing.assert_close(
            forward.logits[row, n - len(expected) :], expected, rtol=0, atol=TOLERANCE
        )
        torch.testing.assert_close(
            cacheless[row, n - len(expected) :], expected, rtol=0, atol=TOLERANCE
        )

    # Decoding: the answer's tokens after the full prompt, which keeps as many columns of text.
    text = torch.ones_like(answer.sequences[:, full:-1])
    longer = dict(inputs)
    longer["input_ids"] = answer.sequences[:, :-1]
    longer["attention_mask"] = torch.cat([inputs["attention_mask"], text], dim=1)
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        longer["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(text)], dim=1).int()
    keep = torch.cat([keep, text.bool()], dim=1)
    for row, expected in enumerate(reference_logits(model, longer, keep, positions)):
        decoded = torch.stack([step[row] for step in answer.logits])
        torch.testing.assert_close(decoded, expected[-len(decoded) :], rtol=0, atol=TOLERANCE)
