"""Greedy in rounds is greedy pick by pick, ties included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otprune import OTPrune
from otprune.greedy import logdet as search
from otprune.greedy import ties
from otprune.greedy.logdet import dense, sequential, speculative
from otprune.measures import logdet
from otprune.numerics.normalize import norms
from tests.random_tokens import random_tokens


@pytest.fixture(params=[(0, 8), (0, 1000), (1000, 8)])
def path(request, monkeypatch):
    """Rounds of picks among few candidates, one round among all, or no rounds."""
    small, least = request.param
    monkeypatch.setattr(dense, "MOST", small)
    monkeypatch.setattr(speculative, "_LEAST", least)


def same(tokens, k, gamma=1.0, shift=1.0):
    K = logdet.kernel(tokens.double(), gamma)
    rank = ties.preference(norms(tokens))
    got = search.greedy(K, k, rank, shift)
    assert got.equal(sequential.greedy(K, k, rank, shift))
    return got


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("common", [0.0, 1.0, 20.0])
@pytest.mark.parametrize("shape", [(1, 150, 40), (3, 90, 120)])
def test_the_same_picks(shape, common):
    g = torch.Generator().manual_seed(1)
    tokens = torch.randn(shape, generator=g) + common * torch.randn(shape[-1], generator=g)
    for k in (1, 2, 60):
        same(tokens, k)


@pytest.mark.usefixtures("path")
def test_sets_that_need_different_rounds():
    """Clusters, noise, copies and nothing at all, side by side: each as if it were alone."""
    clusters = random_tokens(6, 30).repeat(20, 1) + 1e-3 * random_tokens(120, 30, seed=2)
    sets = [clusters, random_tokens(120, 30), random_tokens(40, 30).repeat(3, 1)]
    batch = torch.stack([*sets, torch.zeros(120, 30)])
    got = same(batch, 50)
    for b, row in enumerate(batch):
        assert same(row[None], 50)[0].equal(got[b])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.0, 1e-7, 1e-6, 1e-5, 1.0]))
def test_a_pick_stands_if_it_is_the_best(seed, spread):
    """Ties of all kinds, gains that are nothing or below it, tokens that are taken."""
    rng = np.random.default_rng(seed)
    gains = rng.choice([3.0, 1.0, 0.0, -1e-9], (8, 1)) * (1 + spread * rng.random((8, 6)))
    gains[rng.random(gains.shape) < 0.2] = -np.inf
    gains[:, 5] = np.maximum(gains[:, 5], -1.0)
    preference = rng.permutation(6)

    def best(row):
        top = max(row)
        tied = row >= top * (1 - ties.TOLERANCE) if top > 0 else row > -np.inf
        return min(tied.nonzero()[0], key=lambda i: preference[i])

    wanted = np.array([best(row) for row in gains])
    for pick in range(6):
        before = gains.copy()
        accepted = speculative._accepted(gains, np.full(8, pick), preference)
        assert (accepted == (wanted == pick)).all()
        assert (gains == before).all()


def test_bad_guesses_only_take_longer(monkeypatch):
    """All picks of a guess but the first in the wrong order, and one that is none of greedy's."""
    guess, rounds_taken = speculative._draft, []

    def wrong(gains, block, shift, outside, most):
        places, _ = guess(gains, block, shift, outside, most)
        places[1:] = places[:0:-1].copy()
        places[2:3] = gains.argmin()
        picked = block[places[:, None], places]
        rounds_taken.append(len(places))
        return places, np.linalg.cholesky(picked + shift * np.eye(len(places)))

    monkeypatch.setattr(speculative, "_draft", wrong)
    monkeypatch.setattr(dense, "MOST", 0)
    same(random_tokens(1, 150, 40), 30)
    assert len(rounds_taken) > 10


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    m=st.integers(2, 60),
    d=st.integers(1, 20),
    copies=st.integers(1, 3),
    gamma=st.sampled_from([1e-2, 1.0, 1e3]),
    small=st.sampled_from([0, 1000]),
)
def test_the_same_picks_whatever_the_set(seed, m, d, copies, gamma, small):
    tokens = random_tokens(m, d, seed=seed).repeat(copies, 1)[None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speculative, "_LEAST", 4)
        patch.setattr(dense, "MOST", small)
        same(tokens, min(m * copies, d), gamma)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("shift", [1e-4, 1e-8])
def test_float32_survives_exhaustion(shift):
    """Many more picks than rank, hardly any noise: distinct tokens, and nothing overflows."""
    x = random_tokens(300, 7)[None]
    with np.errstate(over="raise", invalid="raise"):
        order = search.greedy(logdet.LowRank(x, x), 200, torch.arange(300)[None], shift)[0]
    assert len(order.unique()) == 200
    assert logdet.certify(logdet.LowRank(x.double(), x.double()), order[:7]).ratio > 0.6


def test_large_sets_keep_what_rows_keep():
    """Big enough for the real thresholds, in float32."""
    tokens = random_tokens(1500, 600)
    K, size = logdet.kernel_norms(tokens[None], 0.1)
    assert len(tokens) > max(dense.MOST, speculative._LEAST, 2 * speculative._PART)
    wanted = sequential.greedy(K, 90, ties.preference(size), 1.0)[0]
    assert OTPrune(90, gamma=0.1).select(tokens).equal(wanted.sort().values)
