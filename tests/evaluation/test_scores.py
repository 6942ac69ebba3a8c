"""Which answers are the same, and which are right."""

import pytest

from otprune.evaluation.scores import plain, right, same


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes.", "yes"),
        ("  The   CAT! ", "cat"),
        ("(A)", "a"),
        ("The answer is A", "answer is a"),
        ("a dog", "dog"),
        ("3.5", "3.5"),
        ("-3", "-3"),
        ("$1,000.", "$1,000"),
        ("5%", "5%"),
        ("- yes", "yes"),
        ('"top-left"', "top-left"),
        ("ﬁve", "five"),
        ("", ""),
        ("?!", "?!"),
        ("Ñandú", "ñandú"),
        ("赤い。", "赤い"),
        ("\u22123", "-3"),
        ("`The cat`", "cat"),
        ("the 3 cats", "3 cats"),
    ],
)
def test_what_counts_of_an_answer(answer, expected):
    assert plain(answer) == expected


def test_numbers_that_differ_are_not_the_same():
    assert not same("3.5", "35")
    assert not same("-3", "3")
    assert not same("?!", "")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\u22123", "3"),
        ("\u20133", "3"),
        ("-.5", ".5"),
        ("-$5", "$5"),
        ("5 €", "5 $"),
        ("5€", "5$"),
        ("A+", "A-"),
        ("A-", "A"),
        ("C#", "C++"),
        ("<5", ">5"),
        ("> 5", "< 5"),
        ("10²", "102"),
        ("5‰", "5"),
        ("A, B", "B"),
        ("A B", "B"),
    ],
)
def test_what_differs_in_a_sign_a_symbol_or_a_letter_is_not_the_same(one, other):
    assert not same(one, other)
    assert same(one, f" ({one}). ")


def test_right():
    assert right("Red.", ["blue", "red"], "exact")
    assert not right("It is red.", ["red"], "exact")
    assert right("It is red.", ["red"], "contains")
    assert right("The answer is (B), I think", ["B"], "contains")
    assert not right("It is hundred", ["red"], "contains")
    assert not right("30", ["3"], "contains")
    assert not right("red", [], "contains")


@pytest.mark.parametrize("match", ["exact", "contains"])
def test_an_empty_answer_is_right_about_nothing(match):
    assert not right("", ["red"], match)
    assert not right("red", [""], match)
