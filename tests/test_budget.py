"""keep: a ratio or a number, and nothing else."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import otprune
from otprune import KeepError, TokenError, count


@pytest.mark.parametrize(
    ("keep", "m", "k"),
    [
        (0.098, 576, 56),
        (0.5, 5, 2),  # Python's round: 2.5 -> 2
        (0.5, 7, 4),  # 3.5 -> 4
        (0.001, 10, 1),
        (1.0, 7, 7),
        (1, 7, 1),
        (64, 576, 64),
        (1000, 576, 576),
        (np.float32(0.25), 8, 2),
        (np.int64(3), 8, 3),
        (Fraction(1, 4), 8, 2),
    ],
)
def test_count(keep, m, k):
    assert count(keep, m) == k
    assert otprune.NormPrune(keep).count(m) == k


@given(keep=st.floats(0, 1, exclude_min=True), m=st.integers(1, 100_000))
def test_a_ratio_keeps_what_it_says(keep, m):
    k = count(keep, m)
    assert type(k) is int
    assert k == max(1, round(keep * m)) <= m


@pytest.mark.parametrize(
    ("keep", "word"),
    [
        (0, "no token"),
        (-3, "no token"),
        (0.0, "no token"),
        (-0.5, "no token"),
        (float("nan"), "no token"),
        (1.5, "more than everything"),
        (56.0, "keep=56"),
        (float("inf"), "more than everything"),
        (True, "bool"),
        (np.True_, "bool"),
        ("0.5", "str"),
        (None, "NoneType"),
        (1 + 0j, "complex"),
    ],
)
def test_bad_keep(keep, word):
    for make in (otprune.OTPrune, lambda k: count(k, 10)):
        with pytest.raises(KeepError, match=word) as caught:
            make(keep)
        assert "ratio in (0, 1]" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_numpy_numbers_become_plain_ones():
    assert repr(otprune.GridPrune(np.int32(4))) == "GridPrune(keep=4)"
    assert repr(otprune.GridPrune(np.float64(0.5))) == "GridPrune(keep=0.5)"


def test_no_tokens_to_count():
    with pytest.raises(TokenError, match="0 tokens"):
        count(0.5, 0)
