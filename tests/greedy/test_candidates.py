"""The few tokens of largest gain hold the next pick, however many tie with it."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune.greedy import ties
from otprune.greedy.candidates import best_place, candidates


@given(
    seed=st.integers(0, 10_000),
    p=st.integers(1, 12),
    spread=st.sampled_from([0.0, 1e-7, 5e-7, 3e-6, 1.0]),
)
def test_candidates(seed, p, spread):
    rng = np.random.default_rng(seed)
    gains = rng.choice([3.0, 1.0, 0.0], (4, 1)) * (1 + spread * rng.random((4, 12)))
    gains[rng.random(gains.shape) < 0.2] = -np.inf
    gains[:, 7] = np.maximum(gains[:, 7], 0)
    preference = np.stack([rng.permutation(12) for _ in range(4)])
    chosen, outside = candidates(gains, preference, p)
    best = ties.best(torch.from_numpy(gains), torch.from_numpy(preference))[:, 0]
    places, tops = best_place(np.take_along_axis(gains, chosen, 1))
    for row in range(4):
        rest = np.setdiff1d(np.arange(12), chosen[row])
        assert len(set(chosen[row])) == p
        assert (np.diff(preference[row, chosen[row]]) > 0).all()
        assert outside[row] == gains[row, rest].max(initial=-np.inf)
        # All but the next pick are of the largest gains.
        others = gains[row, chosen[row][chosen[row] != int(best[row])]]
        assert others.min(initial=np.inf) >= outside[row]
        if tops[row] == gains[row].max():
            assert chosen[row, places[row]] == best[row]
        else:  # the only place is that of the pick, which ties with the largest gain
            assert chosen[row].tolist() == [best[row]]
