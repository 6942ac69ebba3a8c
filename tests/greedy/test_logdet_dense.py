"""Greedy pick by pick: rows of the matrix are formed when a pick needs them, and are its rows."""

import numpy as np
import pytest
import torch

from otprune.greedy import logdet
from otprune.greedy.logdet import dense, sequential
from otprune.numerics import threads
from otprune.numerics.lowrank import LowRank
from tests.random_tokens import random_tokens


@pytest.fixture
def products(monkeypatch):
    """Sizes of the products that form rows."""
    made, plain = [], torch.mm

    def counted(a, b, **kwargs):
        made.append(len(a))
        return plain(a, b, **kwargs)

    monkeypatch.setattr(torch, "mm", counted)
    return made


@pytest.mark.parametrize("m", [1, 5, 16, 40])
@pytest.mark.parametrize("falling", [True, False])
def test_every_row_in_any_order(m, falling, products):
    left, right = random_tokens(m, 7, seed=1), random_tokens(m, 7, seed=2)
    rows, gains = dense._OnDemand(left, right), np.arange(m, dtype=np.float32)
    matrix = left.numpy() @ right.numpy().T
    with threads.turn():
        for j in range(m)[:: -1 if falling else 1]:
            np.testing.assert_allclose(rows(j, gains), matrix[j], rtol=1e-5, atol=1e-5)
            gains[j] = -np.inf
    assert all(size == min(m, dense._AT_ONCE) for size in products)
    if falling:  # each product formed the next picks
        assert len(products) == -(-m // dense._AT_ONCE)


def test_a_pick_of_low_gain_is_formed_with_those_of_the_largest(products):
    x = random_tokens(100, 9)
    rows, gains = dense._OnDemand(x, x), np.linspace(1, 0, 100, dtype=np.float32)
    with threads.turn():
        for j in [99, *range(dense._AT_ONCE - 1)]:
            rows(j, gains)
        assert len(products) == 1
        for j in range(dense._AT_ONCE - 1, 2 * dense._AT_ONCE - 1):
            rows(j, gains)
    assert len(products) == 2  # nothing is formed twice


@pytest.mark.parametrize("k", [dense.MOST // dense._FEW, dense.MOST // dense._FEW + 1])
def test_rows_outside_the_first_product_are_picked(k, products):
    """On demand and beforehand; of the longest tokens not all are picked first."""
    x = random_tokens(dense.MOST, dense.MOST).double()
    x *= torch.linspace(1, 2, len(x), dtype=x.dtype).unsqueeze(-1)
    order = torch.arange(len(x))[None]
    K = LowRank(x[None], x[None])
    got = logdet.greedy(K, k, order, 1e-3)
    assert got.equal(sequential.greedy(K, k, order, 1e-3))
    assert (set(products) == {dense._AT_ONCE}) == (k * dense._FEW <= dense.MOST)
    largest = K.diagonal()[0].topk(dense._AT_ONCE).indices
    assert len(set(got[0].tolist()) - set(largest.tolist())) > 100


def test_another_thread_has_its_turn_while_rows_are_formed(monkeypatch):
    taken, plain = [], torch.mm

    def watched(a, b, **kwargs):
        taken.append(threads._turn().locked())
        return plain(a, b, **kwargs)

    monkeypatch.setattr(torch, "mm", watched)
    x = random_tokens(50, 50)
    logdet.greedy(LowRank(x[None], x[None]), 6, torch.arange(50)[None], 1.0)
    assert taken
    assert not any(taken)
    assert not threads._turn().locked()
