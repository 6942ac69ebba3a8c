"""Arguments of lmms-eval and of its tasks, as otprune and transformers take them."""

import pytest

import otprune
from otprune import OTPruneError
from otprune.engines.lmms_eval.settings import cut, decoding, make_selector, pruning


def test_the_selector_has_the_settings_that_were_given():
    assert make_selector("otprune", 0.098, gamma=0.01, seed=None) == otprune.OTPrune(0.098, 0.01)
    assert make_selector("random", 56, seed=3) == otprune.RandomPrune(56, seed=3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "otprnue", "keep": 0.1}, "no method 'otprnue': expected one of otprune, "),
        ({"method": "grid", "keep": 0.1, "gamma": 1.0}, "gamma has no meaning for method=grid"),
        ({"method": "otprune", "keep": 0.1, "gamma": "big"}, "gamma is 'big'"),
        ({"method": "otprune", "keep": 1.5}, "1.5"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(arguments, said):
    with pytest.raises(otprune.OTPruneError) as error:
        make_selector(**arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


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


def test_what_prune_is_called_with():
    unset = {"gamma": None, "metric": None, "seed": None}
    made = pruning("transport", 0.1, True, "token", 0.5, **unset)
    assert made == {
        "selector": otprune.TransportPrune(0.1),
        "merge": True,
        "mass": "token",
        "alpha": 0.5,
    }
    assert pruning("recommended", 0.1, False, None, 1.0, **unset) == otprune.recommended(0.1)
    with pytest.raises(OTPruneError, match="leave them out"):
        pruning("recommended", 0.1, True, None, 1.0, **unset)
    with pytest.raises(OTPruneError, match="mass='all'"):
        pruning("dpp", 0.1, False, "all", 1.0, **unset)
    with pytest.raises(OTPruneError, match="expected True or False"):
        pruning("dpp", 0.1, "yes", None, 1.0, **unset)
