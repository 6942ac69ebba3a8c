"""The few tokens of largest gain hold the next pick, however many tie with it."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune.greedy import ties
from otprune.greedy.candidates import best_place, candidates, covering


@given(
    seed=st.integers(0, 10_000),
    p=st.integers(1, 12),
    spread=st.sampled_from([0.0, 1e-7, 5e-7, 3e-6, 1.0]),
)
def test_candidates(seed, p, spread):
    rng = np.random.default_rng(seed)
    gains = rng.choice([3.0, 1.0, 0.0]) * (1 + spread * rng.random(12))
    gains[rng.random(12) < 0.2] = -np.inf
    gains[7] = max(gains[7], 0)
    preference = rng.permutation(12)
    chosen, outside = candidates(gains, preference, p)
    best = int(ties.best(torch.from_numpy(gains)[None], torch.from_numpy(preference)[None]))
    place, top = best_place(gains[chosen])
    rest = np.setdiff1d(np.arange(12), chosen)
    assert len(set(chosen)) == p
    assert (np.diff(preference[chosen]) > 0).all()
    assert outside == gains[rest].max(initial=-np.inf)
    # All but the next pick are of the largest gains.
    assert gains[chosen[chosen != best]].min(initial=np.inf) >= outside
    if top == gains.max():
        assert chosen[place] == best
    else:  # the only place is that of the pick, which ties with the largest gain
        assert chosen.tolist() == [best]


def test_covering_ends_where_another_token_may_be_better():
    """On a line: gains fall pick by pick, and those outside are worth 0.3."""
    points, some = np.array([0.0, 1.0, 5.0, 5.5]), np.array([0.0, 5.0, 5.5])
    near = np.abs(points[:, None] - some)
    mass = np.array([0.1, 0.2, 0.3, 0.4])

    def gains(paid):
        return (np.maximum(paid[:, None] - near, 0) * mass[:, None]).sum(axis=0)

    start = np.full(4, 9.0)
    paid = start.copy()
    assert covering(near, paid, mass, np.ones(3), 0.3, 9) == [1, 0]
    np.testing.assert_array_equal(paid, near[:, [0, 1]].min(axis=1))
    assert gains(paid).max() < 0.3 < gains(near[:, 1]).max()
    # As many as are asked for; none that is taken; what is worth less, later.
    assert covering(near, start.copy(), mass, np.ones(3), -np.inf, 2) == [1, 0]
    assert covering(near, start.copy(), mass, np.array([1, -np.inf, 1]), -np.inf, 2) == [2, 0]
    assert covering(near, start.copy(), mass, np.array([0.1, 1, 1]), -np.inf, 3) == [1, 2, 0]


@given(
    seed=st.integers(0, 10_000),
    decades=st.sampled_from([0, 6, 20]),
    outside=st.sampled_from([-np.inf, 1e-3]),
)
def test_covering_follows_gains_that_become_small(seed, decades, outside):
    """Each pick is that of the gains summed up anew, however little is left of the first ones."""
    rng = np.random.default_rng(seed)
    near = rng.random((30, 8)) ** 8
    mass, paid = rng.random(30), near.max(axis=1)
    paid[0] = 10.0**decades  # an outlier, to which all are about as near
    places, left = [], paid.copy()
    for _ in range(8):
        gains = (np.maximum(left[:, None] - near, 0) * mass[:, None]).sum(axis=0)
        gains[places] = -np.inf
        place, top = best_place(gains)
        if places and not top > outside:
            break
        places.append(place)
        left = np.minimum(left, near[:, place])
    assert covering(near, paid, mass, np.ones(8), outside, 8) == places
    np.testing.assert_array_equal(paid, left)
