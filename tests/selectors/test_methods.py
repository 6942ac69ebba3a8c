"""What is particular to one method."""

import pytest
import torch

from otprune import (
    DivPrune,
    DPPPrune,
    GridPrune,
    HerdingPrune,
    NormPrune,
    OTPrune,
    RandomPrune,
    TransportPrune,
)
from otprune.greedy import herding, ties
from otprune.greedy.cover import sequential
from tests.random_tokens import random_tokens


def test_norm():
    tokens = torch.tensor([[3.0, 4.0], [0.0, 1.0], [5.0, 0.0], [0.0, -6.0]])
    assert NormPrune(1).select(tokens).tolist() == [3]
    assert NormPrune(2).select(tokens).tolist() == [0, 3]  # 5 and 5: the first


@pytest.mark.parametrize(
    ("m", "k", "kept"),
    [(9, 3, [1, 4, 7]), (4, 1, [2]), (10, 4, [1, 3, 6, 8]), (5, 4, [0, 1, 3, 4])],
)
def test_grid(m, k, kept):
    assert GridPrune(k).select(torch.zeros(m, 1)).tolist() == kept


def test_grid_is_even():
    for m, k in [(576, 56), (257, 100), (1000, 999)]:
        steps = GridPrune(k).select(torch.zeros(m, 1)).diff()
        assert steps.max() - steps.min() <= 1


def test_random_goes_by_seed_and_m_alone():
    kept = RandomPrune(5).select(random_tokens(50, 3))
    assert RandomPrune(5).select(random_tokens(50, 8, seed=1)).equal(kept)
    assert not RandomPrune(5, seed=1).select(random_tokens(50, 3)).equal(kept)


def test_random_is_uniform():
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[RandomPrune(3, seed=seed).select(torch.zeros(10, 1))] += 1
    # 600 each, standard deviation 20.5
    assert (counts - 600).abs().max() < 90


def test_divprune_starts_with_the_most_isolated():
    angles = torch.tensor([0.0, 0.1, 0.2, 1.0, 1.1, 2.5])
    tokens = torch.stack([angles.cos(), angles.sin()], dim=-1)
    assert DivPrune(1).select(tokens).tolist() == [5]
    assert DivPrune(3).select(tokens).tolist() == [0, 4, 5]


def test_dpp_prefers_right_angles():
    tokens = torch.tensor([[5.0, 0.0, 0.0], [4.0, 3.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert DPPPrune(3).select(tokens).tolist() == [0, 2, 3]


def test_transport_first_keeps_the_best_single_token():
    tokens = random_tokens(40, 6)
    for metric in ("cosine", "euclidean"):
        x = tokens / tokens.norm(dim=-1, keepdim=True) if metric == "cosine" else tokens
        cost = (x[:, None] - x[None]).square().sum(-1).mean(dim=0)
        assert TransportPrune(1, metric=metric).select(tokens).item() == cost.argmin()


def test_transport_keeps_one_of_each_cluster():
    centres = 10 * torch.eye(5)
    tokens = centres.repeat_interleave(8, dim=0) + 0.1 * random_tokens(40, 5)
    for metric in ("cosine", "euclidean"):
        kept = TransportPrune(5, metric=metric).select(tokens)
        assert (kept // 8).tolist() == [0, 1, 2, 3, 4]


def test_transport_metrics_differ_by_length():
    """Same direction, other length: one place on the sphere, two places in space."""
    tokens = torch.tensor([[1.0, 0.0], [9.0, 0.0], [0.0, 1.0]])
    assert TransportPrune(2, metric="cosine").select(tokens).tolist() == [1, 2]
    assert TransportPrune(2, metric="euclidean").select(tokens).tolist() == [0, 1]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("length", [30.0, 1000.0])
def test_transport_with_one_huge_token(metric, length):
    """Vision encoders make such tokens; the choice among the others must not drown in rounding."""
    tokens = random_tokens(60, 16)
    tokens[17] *= length
    x = tokens.double()
    x = x / x.norm(dim=-1, keepdim=True) if metric == "cosine" else x
    D = (x[:, None] - x[None]).square().sum(-1)
    # Two tokens that are each other's nearest save the same: true ties, so the true rule.
    rank = ties.preference(tokens.norm(dim=-1)[None])
    wanted = sequential.greedy(D[None], D.new_full((1, 60), 1 / 60), 20, rank)[0]
    assert TransportPrune(20, metric=metric).select(tokens).equal(wanted.sort().values)


def test_herding_with_one_huge_token():
    """The kernel's width stays that of the others: all of them are told apart."""
    tokens = random_tokens(60, 16)
    tokens[17] *= 1000
    D = (tokens.double()[:, None] - tokens.double()[None]).square().sum(-1)
    kernel = torch.exp(-D / D.flatten().median())[None]
    rank = ties.preference(tokens.norm(dim=-1)[None])
    wanted = herding.greedy(kernel, D.new_full((1, 60), 1 / 60), 20, rank)[0]
    assert HerdingPrune(20).select(tokens).equal(wanted.sort().values)


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_herding_among_duplicates_takes_the_mean_for_its_width(seed):
    """More than half of all distances are zero, and so is their median."""
    tokens = torch.cat([random_tokens(1, 4, seed=99).repeat(30, 1), random_tokens(8, 4, seed=seed)])
    D = (tokens.double()[:, None] - tokens.double()[None]).square().sum(-1)
    assert D.flatten().median() == 0
    rank = ties.preference(tokens.norm(dim=-1)[None])
    mass = D.new_full((1, 38), 1 / 38)
    wanted = herding.greedy(torch.exp(-D / D.mean())[None], mass, 12, rank)[0]
    assert HerdingPrune(12).select(tokens).equal(wanted.sort().values)


def test_herding_keeps_shares_and_otprune_keeps_extremes():
    """Thirty alike and three apart: uniform mass copies the shares, log-det does not."""
    crowd = torch.tensor([4.0, 0.0, 0.0, 0.0]) + 0.05 * random_tokens(30, 4)
    apart = 4 * torch.eye(4)[1:]
    tokens = torch.cat([crowd, apart])
    assert (HerdingPrune(10).select(tokens) >= 30).sum() <= 2
    assert OTPrune(10).select(tokens)[-3:].tolist() == [30, 31, 32]


def test_paper_gamma_forgets_diversity_away_from_the_papers_sizes():
    """At 0.01 and small d, greedy is close to the largest `|S_i|`; scaled, it is not."""
    tokens = random_tokens(144, 128)
    v = tokens / tokens.norm(dim=0)
    largest = set((v @ v.T).norm(dim=1).topk(14).indices.tolist())

    def shared(gamma):
        return len(largest & set(OTPrune(14, gamma=gamma).select(tokens).tolist()))

    assert shared(0.01) > shared("scaled")
