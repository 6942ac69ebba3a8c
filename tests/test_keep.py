"""keep: a ratio or a number, and nothing else."""

from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import otprune
from otprune import Auto, Budget, KeepError, TokenError, count
from otprune.keep import _even_falls, share


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
        (56.0, r"write keep=56\)"),
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


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"target": 0}, "number > 0"),
        ({"target": -0.1}, "number > 0"),
        ({"target": float("nan")}, "number > 0"),
        ({"target": "low"}, "number > 0"),
        ({"target": True}, "number > 0"),
        ({"target": 1.1, "measure": "certificate"}, r"in \(0, 1\]"),
        ({"measure": "gaussian"}, 'expected "distance" or "certificate"'),
        ({"max_keep": 0}, "ratio in"),
        ({"max_keep": "auto"}, "ratio in"),
    ],
)
def test_bad_auto(wrong, word):
    with pytest.raises(KeepError, match=word):
        Auto(**wrong)


@pytest.mark.parametrize("rule", ["auto", Auto(0.2), Budget(5)])
def test_a_rule_is_no_number(rule):
    with pytest.raises(KeepError, match="depends on the tokens"):
        count(rule, 10)
    assert otprune.TransportPrune(rule).keep == (Auto() if rule == "auto" else rule)


def test_floors_are_plain_numbers():
    assert [Budget(5).floor, Budget(5, 1).floor, Budget(5, floor=3).floor] == [1, 1, 3]
    assert repr(Budget(np.int64(5), np.int64(2))) == "Budget(total=5, floor=2)"


def test_targets():
    assert (Auto().target, Auto(measure="certificate").target) == (0.1, 0.9)
    assert Auto(1.5).target == 1.5  # more than the mean squared norm
    assert Auto(1, measure="certificate").target == 1.0


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"total": 0}, "no token"),
        ({"total": Auto()}, "ratio in"),
        ({"total": 5, "floor": 0}, "1 or more"),
        ({"total": 5, "floor": 0.5}, "1 or more"),
        ({"total": 5, "floor": True}, "1 or more"),
    ],
)
def test_bad_budget(wrong, word):
    with pytest.raises(KeepError, match=word):
        Budget(**wrong)


def test_a_fall_that_comes_late_counts_evenly():
    late, early = [10, 10, 0], [10, 7, 5]
    assert share([late, early], 4) == [3, 1]
    assert share([early, late], 5) == [2, 3]
    assert share([late, early], 99) == [3, 3]
    assert share([late, early], 4, floor=2) == [2, 2]
    assert share([early, early, early], 5) == [2, 2, 1]  # the earlier ones, if equal
    assert share([[1.0]], 1) == [1]


def test_the_floor_of_an_image_is_no_more_than_it_has():
    assert share([[9, 5, 1], [9]], 3, floor=2) == [2, 1]
    assert share([[9], [9, 5, 1]], 4, floor=5) == [1, 3]
    with pytest.raises(KeepError, match=r"total of 2 tokens for 2 images, which take 3 at least"):
        share([[9, 5, 1], [9]], 2, floor=2)


@given(cost=st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_falls_are_those_of_the_convex_minorant(cost):
    """The largest convex sequence below: the least of all chords, at every place."""
    n = len(cost)
    minorant = [
        min(
            cost[a] if a == b else cost[a] + (cost[b] - cost[a]) * (k - a) / (b - a)
            for a in range(k + 1)
            for b in range(k, n)
        )
        for k in range(n)
    ]
    falls = _even_falls([float(c) for c in cost])
    assert falls == sorted(falls, reverse=True)
    assert falls == pytest.approx([a - b for a, b in pairwise(minorant)])


@given(falls=st.lists(st.integers(0, 50), max_size=9))
def test_falls_of_what_is_convex_are_its_own(falls):
    falls.sort(reverse=True)
    cost = [float(sum(falls[k:])) for k in range(len(falls) + 1)]
    assert _even_falls(cost) == falls


@given(
    costs=st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), min_size=1, max_size=3),
    floor=st.integers(1, 4),
    data=st.data(),
)
def test_share_is_within_one_image_of_the_best(costs, floor, data):
    costs = [sorted(c, reverse=True) for c in costs]
    least = [min(floor, len(c)) for c in costs]
    total = data.draw(st.integers(sum(least), sum(map(len, costs))))
    ks = share(costs, total, floor)
    assert sum(ks) == total
    assert all(n <= k <= len(c) for n, k, c in zip(least, ks, costs, strict=True))
    paid = sum(c[k - 1] for c, k in zip(costs, ks, strict=True))
    splits = product(*(range(n, len(c) + 1) for n, c in zip(least, costs, strict=True)))
    best = min(
        sum(c[k - 1] for c, k in zip(costs, split, strict=True))
        for split in splits
        if sum(split) == total
    )
    assert paid <= best + max(c[0] - c[-1] for c in costs)
