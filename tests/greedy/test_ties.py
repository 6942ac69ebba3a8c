"""Larger norm, then lower index: also when rounding would have it otherwise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune.greedy.ties import TOLERANCE, best, preference, top

ulp = torch.finfo(torch.float32).eps


def test_preference_is_larger_norm_then_lower_index():
    norms = torch.tensor([[1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 1.0, 0.0]])
    assert preference(norms).tolist() == [[3, 0, 2, 1], [1, 2, 0, 3]]


@pytest.mark.parametrize("ulps", [[0, 1, -1], [-1, 0, 1], [-7, 0, 7]])
def test_norms_that_differ_by_rounding_are_equal(ulps):
    """Around a number of few digits, which is a point of the grid."""
    norms = (torch.tensor([[5.0]]).view(torch.int32) + torch.tensor([ulps])).int()
    assert preference(norms.view(torch.float32)).tolist() == [[0, 1, 2]]


@given(st.lists(st.floats(2**-100, 2**100, width=32), min_size=1, max_size=20))
def test_preference_is_a_ranking_that_follows_the_norms(norms):
    x = torch.tensor([norms])
    rank = preference(x)[0]
    assert sorted(rank.tolist()) == list(range(len(norms)))
    ordered = x[0, rank.argsort()]
    assert (ordered[1:] <= ordered[:-1] * (1 + 4 * TOLERANCE)).all()


def test_best_takes_the_preferred_of_those_within_tolerance():
    rank = torch.tensor([[2, 0, 1]])
    assert best(torch.tensor([[7.0, 7.0 * (1 - 4 * ulp), 1.0]]), rank).item() == 1
    assert best(torch.tensor([[7.0, 7.0 * (1 - 4 * TOLERANCE), 1.0]]), rank).item() == 0
    assert best(torch.tensor([[-7.0, -7.0 * (1 + 4 * ulp), -8.0]]), rank).item() == 1


def test_top_is_in_order_and_ties_go_by_the_tie_order():
    rank = torch.tensor([[3, 0, 2, 1]])
    assert top(torch.tensor([[1.0, 2, 4, 3]]), 3, rank).tolist() == [[2, 3, 1]]
    assert top(torch.full((1, 4), 5.0), 4, rank).tolist() == [[1, 3, 2, 0]]
    assert top(torch.tensor([[1.0, 1 + ulp, 1, 1]]), 2, rank).tolist() == [[1, 3]]
    assert top(torch.tensor([[0.0, -0.0, 0, 1e-30]]), 4, rank).tolist() == [[3, 1, 2, 0]]


def test_best_passes_over_what_is_no_candidate():
    gains = torch.tensor([[0.0, -torch.inf, 0.0]])
    assert best(gains, torch.tensor([[2, 0, 1]])).item() == 2


def test_unit_says_when_small_gains_are_noise():
    gains, rank = torch.tensor([[1e-9, 0.0]]), torch.tensor([[1, 0]])
    assert best(gains, rank).item() == 0
    assert best(gains, rank, unit=1.0).item() == 1
    assert best(gains, rank, unit=torch.tensor([[1.0]])).item() == 1


def test_rows_of_a_batch_do_not_see_each_other():
    gains = torch.tensor([[1e6, 1.0], [1.0, 1.0 + 1e-3]])
    assert best(gains, torch.tensor([[0, 1], [0, 1]])).tolist() == [[0], [1]]
