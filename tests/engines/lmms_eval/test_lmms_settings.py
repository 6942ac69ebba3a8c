"""Generation settings of lmms-eval's tasks, and the plain values of `--model_args`."""

import pytest

import otprune
from otprune.engines.lmms_eval.settings import cut, decoding, layer_stage


def test_decoding_is_greedy_unless_a_task_asks_for_a_temperature():
    greedy = decoding({"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 16, "until": ["\n\n"]})
    assert greedy == {
        "max_new_tokens": 16,
        "num_beams": 1,
        "do_sample": False,
        "temperature": None,
        "top_p": None,
    }
    sampled = decoding({"temperature": 0.5, "top_p": 0.9, "num_beams": 2})
    assert sampled["do_sample"]
    assert (sampled["temperature"], sampled["top_p"], sampled["num_beams"]) == (0.5, 0.9, 2)
    assert sampled["max_new_tokens"] == 1024


@pytest.mark.parametrize(
    ("until", "left"),
    [
        (None, "A cat.\n\nUSER: why"),
        (["\n\n"], "A cat.\n\nUSER: why"),
        ("USER:", "A cat."),
        (["ASSISTANT:", "cat"], "A"),
    ],
)
def test_answers_end_at_stop_strings_but_not_at_empty_lines(until, left):
    assert cut(" A cat.\n\nUSER: why\n", until) == left


def test_the_stage_inside_the_language_model_from_plain_values():
    assert layer_stage() is None
    assert layer_stage("fastv", 2, 0.5) == otprune.LayerStage(after=2, keep=0.5)
    assert layer_stage("pyramiddrop") == otprune.LayerStage(rank="pyramiddrop")
    assert layer_stage("vtw", 0.5) == otprune.LayerStage(after=0.5, rank="vtw")


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"rank": "fast"}, otprune.OTPruneError, "layer_rank='fast': .*expected one of 'fastv'"),
        ({"rank": True}, otprune.OTPruneError, "layer_rank=True"),
        ({"rank": 2}, otprune.OTPruneError, "layer_rank=2"),
        ({"after": 2}, otprune.OTPruneError, "layer_after=2 belongs to layer_rank"),
        ({"keep": 0.5}, otprune.OTPruneError, r"layer_keep=0\.5 belongs to layer_rank"),
        ({"rank": "fastv", "after": "2"}, otprune.OTPruneError, "after='2'"),
        ({"rank": "fastv", "after": 2.5}, otprune.OTPruneError, r"after=2\.5"),
        ({"rank": "fastv", "after": True}, otprune.OTPruneError, "after=True"),
        ({"rank": "fastv", "keep": "half"}, otprune.KeepError, "half"),
        ({"rank": "fastv", "keep": "auto"}, otprune.KeepError, "auto"),
        ({"rank": "fastv", "keep": 1.5}, otprune.KeepError, "more than everything"),
        ({"rank": "vtw", "keep": 0.5}, otprune.KeepError, "which keeps none"),
        ({"rank": "pyramiddrop", "after": 2}, otprune.OTPruneError, "give one value of keep for"),
    ],
)
def test_wrong_values_of_the_stage_are_refused(values, error, said):
    with pytest.raises(error, match=said):
        layer_stage(**values)
