"""Generation settings of lmms-eval's tasks, as transformers takes them."""

import pytest

from otprune.engines.lmms_eval.settings import cut, decoding


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
