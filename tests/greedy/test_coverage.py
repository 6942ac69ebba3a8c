"""Greedy maximum coverage: lazily and step by step, the same picks."""

import pytest
import torch

from otprune.greedy import coverage, ties
from tests.random_tokens import best_by_brute_force


def problem(m, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    similarity = torch.randn(1, m, n, generator=g)
    return similarity, torch.arange(m)[None], torch.rand(1, m, generator=g)


def by_hand(similarity, k, quality):
    """In float64, from the definition."""
    s, q = similarity[0].double(), quality[0].double()
    covered, order = torch.zeros(s.shape[1]).double(), []
    for _ in range(k):
        gains = [
            -1 if j in order else q[j] * (s[j] - covered).clamp(min=0).sum() for j in range(len(s))
        ]
        order.append(max(range(len(s)), key=gains.__getitem__))
        covered = torch.maximum(covered, s[order[-1]])
    return order


@pytest.mark.parametrize("few", [3, 64])
@pytest.mark.parametrize("shape", [(30, 30), (30, 47), (100, 9)])
def test_all_searches_pick_what_the_definition_says(shape, few, monkeypatch):
    monkeypatch.setattr(coverage, "_CANDIDATES", few)
    similarity, order, quality = problem(*shape)
    for q in (quality, torch.ones_like(quality)):
        wanted = by_hand(similarity, 25, q)
        assert coverage.greedy(similarity, 25, order, q)[0].tolist() == wanted
        assert coverage.sequential(similarity, 25, order, q)[0].tolist() == wanted
    assert coverage.greedy(similarity, 25, order)[0].tolist() == wanted


@pytest.mark.parametrize("few", [3, 64])
def test_where_nothing_is_left_to_cover_the_tie_order_decides(few, monkeypatch):
    monkeypatch.setattr(coverage, "_CANDIDATES", few)
    similarity = torch.eye(12)[:3].repeat(4, 1)[None]  # every token four times
    order = ties.preference(torch.arange(12.0)[None])  # the last one first
    wanted = [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    ones = torch.ones(1, 12)
    assert coverage.greedy(similarity, 12, order)[0].tolist() == wanted
    assert coverage.sequential(similarity, 12, order, ones)[0].tolist() == wanted
    zero = -similarity  # nothing at all
    assert coverage.greedy(zero, 12, order)[0].tolist() == wanted
    assert coverage.greedy(similarity, 12, order, 0 * ones)[0].tolist() == wanted


@pytest.mark.parametrize("seed", range(5))
def test_within_the_bound_of_the_best_set(seed):
    similarity, order, _ = problem(8, 10, seed)
    s = similarity[0].clamp(min=0)

    def value(kept):
        return float(s[kept].amax(dim=0).sum())

    for k in (1, 3):
        found = value(coverage.greedy(similarity, k, order)[0].tolist())
        best = best_by_brute_force(value, 8, k)
        assert (1 - 1 / 2.718281828) * best - 1e-5 <= found <= best + 1e-5
        assert k > 1 or found == pytest.approx(best)
