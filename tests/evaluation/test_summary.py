"""The figures of a summary, by hand."""

import math

import pytest

from otprune.evaluation.answers import UNPRUNED, Answer, Setting
from otprune.evaluation.examples import Example
from otprune.evaluation.summary import suggested, summary

HALF, TENTH = Setting("m", "0.5"), Setting("m", "0.1")


def answer(text, tokens=10, seconds=1.0):
    return Answer(text, tokens, tokens + 5, seconds, 0.25, 100 * tokens)


def row(full, half, tenth=None, seconds=1.0):
    found = {UNPRUNED: answer(full, 10, 2 * seconds), HALF.key: answer(half, 5, seconds)}
    return found | ({} if tenth is None else {TENTH.key: answer(tenth, 1, seconds / 2)})


def test_figures_where_answers_are_known():
    examples = [Example((f"{i}.png",), "q", ("cat",)) for i in range(4)]
    rows = [
        row("cat", "cat", "dog"),  # tenth loses
        row("dog", "cat", "dog"),  # half gains
        row("cat", "Cat.", "cat", seconds=3.0),
        row("cow", "bull", "cow"),
    ]
    full, half, tenth = summary(examples, rows, [HALF, TENTH], "exact")
    assert (full.examples, full.answered, full.accuracy, full.agreement) == (4, 4, 0.5, 1.0)
    assert (full.lost, full.tokens_ratio, full.seconds) == (0.0, 1.0, 2.0)
    assert (half.accuracy, half.agreement, half.lost) == (0.75, 0.5, -0.25)
    assert (half.tokens, half.tokens_ratio, half.cache_ratio) == (5, 0.5, 0.5)
    assert (half.seconds, half.seconds_ratio, half.selector_seconds) == (1.0, 0.5, 0.25)
    assert (tenth.accuracy, tenth.lost) == (0.25, 0.25)


def test_without_known_answers_what_differs_is_lost():
    examples = [Example((f"{i}.png",), "q") for i in range(4)]
    rows = [row("a b", "a b"), row("c", "d"), row("e", "e"), row("f", "f")]
    full, half = summary(examples, rows, [HALF], "exact")
    assert (full.accuracy, half.accuracy, half.lost) == (None, None, 0.25)


def test_accuracy_is_of_the_examples_whose_answer_is_known():
    examples = [Example(("a",), "q", ("x",)), Example(("b",), "q"), Example(("c",), "q", ("x",))]
    full, half = summary(examples, [row("x", "x"), row("y", "z"), row("x", "n")], [HALF], "exact")
    assert (full.examples, full.answered, full.accuracy) == (3, 2, 1.0)
    assert (half.accuracy, half.lost, half.agreement) == (0.5, 0.5, pytest.approx(1 / 3))


def test_questions_about_one_image_count_as_one_draw():
    apart = [Example((f"{i // 4}",), f"{i}") for i in range(64)]
    rows = [row("a", "b") if i < 32 else row("a", "a") for i in range(64)]
    _, half = summary(apart, rows, [HALF], "exact")
    alone = [Example((f"{i}",), "q") for i in range(64)]
    _, other = summary(alone, rows, [HALF], "exact")
    # Sums of 2 or -2 of sixteen images against 64 values half a point from the mean.
    assert half.error == pytest.approx(math.sqrt(16 / 15 * 64) / 64)
    assert other.error == pytest.approx(math.sqrt(64 / 63 * 16) / 64)
    assert half.most_lost == pytest.approx(0.5 + 1.96 * half.error)


def test_without_a_loss_three_of_so_many_may_be_lost():
    examples = [Example((f"{i}",), "q") for i in range(60)]
    _, half = summary(examples, [row("a", "a")] * 60, [HALF], "exact")
    assert half.most_lost == pytest.approx(0.05)
    _, half = summary(examples, [row("a", "b")] + [row("a", "a")] * 59, [HALF], "exact")
    assert half.most_lost == pytest.approx(4 / 60)
    crowded = [Example((f"{i // 10}",), f"{i}") for i in range(60)]  # a loss of an image is ten
    _, half = summary(crowded, [row("a", "a")] * 60, [HALF], "exact")
    assert half.most_lost == pytest.approx(3 / 6)
    _, two = summary(examples[:2], [row("a", "b"), row("a", "a")], [HALF], "exact")
    assert two.error == pytest.approx(3 / 2 / 1.96)
    assert two.most_lost == 1.0  # there is no more to lose
    _, one = summary(examples[:1], [row("a", "a")], [HALF], "exact")
    assert math.isnan(one.error)
    assert math.isnan(one.most_lost)


def test_only_examples_that_both_answered_are_compared():
    examples = [Example(("a",), "q", ("x",)), Example(("b",), "q", ("x",)), Example(("c",), "q")]
    rows = [row("x", "x", "x"), row("x", "n"), {}]
    full, half, tenth = summary(examples, rows, [HALF, TENTH], "exact")
    assert (full.examples, half.examples, tenth.examples) == (2, 2, 1)
    assert (tenth.accuracy, tenth.lost) == (1.0, 0.0)


def test_a_setting_without_an_answer_has_no_figures():
    full, half, tenth = summary([Example(("a",), "q")], [row("x", "x")], [HALF, TENTH], "exact")
    assert tenth.examples == 0
    assert math.isnan(tenth.agreement)
    assert suggested([full, half, tenth], 1.0) is half


def test_the_suggestion_has_the_fewest_tokens_within_the_tolerance():
    examples = [Example((f"{i}",), "q") for i in range(10)]
    rows = [row("a", "a", "b" if i == 0 else "a") for i in range(10)]
    lines = summary(examples, rows, [HALF, TENTH], "exact")
    assert suggested(lines, 0.1) is lines[2]
    assert suggested(lines, 0.05) is lines[1]
    rows = [row("a", "b", "b")] * 10
    assert suggested(summary(examples, rows, [HALF, TENTH], "exact"), 0.05) is None
