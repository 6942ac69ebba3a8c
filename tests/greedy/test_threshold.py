"""Greedy by falling thresholds, against greedy row by row and against brute force."""

from itertools import accumulate, pairwise
from math import e

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune.greedy import threshold
from otprune.greedy.threshold import STEP, above, greedy
from tests.random_tokens import best_by_brute_force, random_tokens

SHIFT = 0.1


def value(rows):
    return float(torch.logdet(torch.eye(len(rows)) + rows @ rows.mT / SHIFT))


def plain(rows, k):
    """Greedy on the log-determinant itself."""
    kept = []
    for _ in range(k):
        rest = [j for j in range(len(rows)) if j not in kept]
        kept.append(max(rest, key=lambda j: value(rows[[*kept, j]])))
    return kept


def blocks(*sizes, d=6, seed=0):
    return list(random_tokens(sum(sizes), d, seed=seed).double().split(sizes))


def kept(parts, k, floor=0):
    norms = [y.norm(dim=-1).float() for y in parts]
    return greedy(parts, norms, k, floor, SHIFT)


def joined(parts, found):
    starts = [0, *accumulate(len(y) for y in parts)]
    return torch.cat([i + s for i, s in zip(found, starts, strict=False)])


@pytest.mark.parametrize("n", [1, 8, 20])
def test_above_is_greedy(n):
    rows = random_tokens(20, 6).double()
    order, root = above(rows @ rows.mT, torch.full((n,), -torch.inf), torch.arange(20), SHIFT)
    assert order.tolist() == plain(rows, n)
    chosen = rows[order]
    assert torch.allclose(root @ root.mT, chosen @ chosen.mT + SHIFT * torch.eye(n))


def test_above_stops_at_its_level():
    """The t-th excess is the t-th diagonal of the factor, squared, less the shift."""
    rows = random_tokens(20, 6).double()
    K = rows @ rows.mT
    _, root = above(K, torch.full((20,), -torch.inf), torch.arange(20), SHIFT)
    excess = root.diagonal().square() - SHIFT
    for n in (1, 3, 9):
        level = float(excess[n - 1 : n + 1].mean())
        order, part = above(K, torch.full((20,), level, dtype=K.dtype), torch.arange(20), SHIFT)
        assert len(order) == n
        assert torch.allclose(part, root[:n, :n])
    rising = torch.where(torch.arange(20) < 4, 0.0, torch.inf)
    assert len(above(K, rising, torch.arange(20), SHIFT)[0]) == 4
    assert above(K, torch.full((20,), 1e9), torch.arange(20), SHIFT)[1].shape == (0, 0)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 5), d=st.integers(1, 8))
def test_within_its_promise_of_the_best_set(seed, k, d):
    parts = blocks(4, 2, 3, d=d, seed=seed)
    rows = torch.cat(parts)
    own = value(rows[joined(parts, kept(parts, k))])
    best = best_by_brute_force(lambda c: value(rows[c]), len(rows), k)
    assert own >= (1 - 1 / e - STEP) * best


def test_worth_as_much_as_greedy_row_by_row():
    parts = blocks(30, 10, 30, d=12)
    rows = torch.cat(parts)
    for k in (5, 20, 50):
        found = joined(parts, kept(parts, k))
        assert len(set(found.tolist())) == k
        assert value(rows[found]) > 0.99 * value(rows[plain(rows, k)])


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    share=st.floats(0, 1),
    floor=st.integers(0, 3),
)
def test_counts_order_and_floor(sizes, share, floor):
    parts = blocks(*sizes, d=3)
    floors = [min(floor, m) for m in sizes]
    k = max(1, sum(floors), round(share * sum(sizes)))
    found = kept(parts, k, floor)
    assert sum(len(i) for i in found) == k
    for i, m, least in zip(found, sizes, floors, strict=True):
        assert len(i) >= least
        assert i.dtype == torch.int64
        assert all(a < b for a, b in pairwise([-1, *i.tolist(), m]))


def test_a_copy_of_a_block_keeps_nothing_while_the_first_has_news():
    rows = random_tokens(10, 16).double()
    found = kept([rows, rows.clone(), rows.clone()], 8)
    assert [len(i) for i in found] == [8, 0, 0]


def test_nothing_but_zeros_is_kept_in_order():
    parts = [torch.zeros(3, 4), torch.zeros(3, 4)]
    assert [i.tolist() for i in kept(parts, 4)] == [[0, 1, 2], [0]]


def test_a_block_is_read_only_when_it_may_offer_something(monkeypatch):
    """One block of large rows, one of small: the small one waits until the level comes down."""
    large, small = random_tokens(12, 30).double(), 1e-3 * random_tokens(12, 30, seed=1).double()
    visits = []
    visit = threshold._Blocks.visit
    monkeypatch.setattr(
        threshold._Blocks, "visit", lambda self, i, *rest: (visits.append(i), visit(self, i, *rest))
    )
    assert [len(i) for i in kept([large, small], 6)] == [6, 0]
    assert set(visits) == {0}


def test_most_blocks_are_not_read_at_most_levels(monkeypatch):
    """A block that had little left when it was read last is not read again at once."""
    visits = []
    visit = threshold._Blocks.visit
    monkeypatch.setattr(
        threshold._Blocks,
        "visit",
        lambda self, i, level, most: (visits.append(level), visit(self, i, level, most)),
    )
    kept(blocks(*[10] * 12, d=12), 20)
    assert len(visits) < len(set(visits)) * 12 / 2
