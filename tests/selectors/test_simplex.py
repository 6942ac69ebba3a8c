"""`SimplexPrune`: the volume that it maximises, and features that dominate."""

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from otprune import DPPPrune, OTPruneError, SimplexPrune
from otprune.numerics.normalize import damped_columns
from tests.random_tokens import random_tokens


def volume(corners):
    """Of the simplex with these corners, by its edges from the first."""
    edges = corners[1:] - corners[0]
    return math.sqrt(max(float(torch.linalg.det(edges @ edges.mT)), 0)) / math.factorial(len(edges))


def test_the_determinant_is_a_sum_of_squared_volumes():
    x = F.normalize(torch.randn(3, 5, dtype=torch.float64), dim=-1)
    lifted = torch.cat([x, torch.ones(3, 1, dtype=torch.float64)], dim=-1)
    with_origin = torch.cat([x, torch.zeros(1, 5, dtype=torch.float64)])
    wanted = (6 * volume(with_origin)) ** 2 + (2 * volume(x)) ** 2
    assert float(torch.linalg.det(lifted @ lifted.mT)) == pytest.approx(wanted)


def test_each_pick_is_greedy():
    x = random_tokens(12, 6)
    lifted = torch.cat([F.normalize(x, dim=-1), torch.ones(12, 1)], dim=-1).double()

    def det(chosen):
        rows = lifted[chosen]
        return float(torch.linalg.det(rows @ rows.mT + 1e-4 * torch.eye(len(chosen))))

    kept = [int(SimplexPrune(1, damping=math.inf).select(x)[0])]
    while len(kept) < 5:
        kept.append(max((j for j in range(12) if j not in kept), key=lambda j: det([*kept, j])))
        got = SimplexPrune(len(kept), damping=math.inf).select(x)
        assert got.tolist() == sorted(kept)


def test_two_tokens_are_those_farthest_apart_in_direction():
    """Where the first pick, which has the largest norm, is one of the two."""
    x = F.normalize(random_tokens(30, 4), dim=-1)
    i, j = max(combinations(range(30), 2), key=lambda pair: float((x[pair[0]] - x[pair[1]]).norm()))
    x[i] *= 2
    assert SimplexPrune(2, damping=math.inf).select(x).tolist() == [i, j]


def test_a_feature_that_dominates_is_damped():
    x = random_tokens(200, 32)
    wild = x.clone()
    wild[:, 3] = 1000 * torch.randn(200, generator=torch.Generator().manual_seed(1))

    def shared(method):
        plain = torch.cat([x[:, :3], x[:, 4:]], dim=1)
        return len(set(method.select(wild).tolist()) & set(method.select(plain).tolist()))

    assert shared(SimplexPrune(20)) > 2 * shared(DPPPrune(20))


def test_a_zero_token_has_no_direction():
    """It comes behind all others, also behind copies of what is kept."""
    x = random_tokens(1, 8).expand(6, 8) * torch.arange(6)[:, None]
    assert SimplexPrune(5).select(x).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("damping", [1e-3, 0.5, 1, math.inf])
def test_damping_is_any_positive_number(damping):
    assert SimplexPrune(5, damping=damping).damping == damping


def test_damping_by_hand():
    x = torch.tensor([[[1.0, 10.0, 0.0, 2.0], [1.0, -10.0, 0.0, 2.0]]])
    # Columns of length sqrt(2) times 1, 10, 0 and 2; the median of those that are not zero is 2.
    wanted = torch.tensor([[[1.0, 4.0, 0.0, 2.0], [1.0, -4.0, 0.0, 2.0]]])
    torch.testing.assert_close(damped_columns(x, 2.0), wanted)
    assert damped_columns(x * 0, 2.0).equal(x * 0)
    torch.testing.assert_close(damped_columns(x * 1e30, 2.0), wanted * 1e30)


def test_padding_is_not_picked_before_tokens():
    x = random_tokens(20, 30)
    x[::2] = 0
    assert SimplexPrune(10).select(x).tolist() == list(range(1, 20, 2))


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, "2", True, None])
def test_damping_is_a_positive_number(wrong):
    with pytest.raises(OTPruneError, match=r"damping=.*: expected a positive number"):
        SimplexPrune(3, damping=wrong)
