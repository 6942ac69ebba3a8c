"""Each batched search against a few lines of plain Python that say the same."""

import pytest
import torch

from otprune import DivPrune
from otprune.greedy import herding, logdet, maxmin
from otprune.greedy.cover import lazy
from otprune.greedy.cover import sequential as cover_sequential
from otprune.greedy.logdet import sequential
from otprune.numerics.distances import pairwise
from otprune.numerics.lowrank import LowRank
from otprune.numerics.normalize import unit_rows
from tests.random_tokens import random_tokens

M, K = 24, 9
BATCH = random_tokens(3, M, 6).double()
DISTANCE = (BATCH[:, :, None] - BATCH[:, None]).square().sum(-1)
MASS = torch.rand(3, M, generator=torch.Generator().manual_seed(1)).double()
MASS = MASS / MASS.sum(-1, keepdim=True)
RANK = torch.arange(M).repeat(3, 1)


def cover_lazy(distance, mass, k, rank):
    sets = zip(distance, mass, rank, strict=True)
    return torch.stack([lazy.greedy(one, p, k, order) for one, p, order in sets])


def plain(score, maximise=True):
    """Greedy by a score of (kept so far, candidate)."""
    kept = []
    for _ in range(K):
        rest = [j for j in range(M) if j not in kept]
        kept.append((max if maximise else min)(rest, key=lambda j: score(kept, j)))
    return kept


def test_cholesky():
    """Order of picks equals greedy on the log-determinant itself."""
    M_ = BATCH @ BATCH.mT
    for greedy in (logdet.greedy, sequential.greedy):
        got = greedy(LowRank(BATCH, BATCH), K, RANK, shift=0.3)
        for b in range(3):
            full = M_[b] + 0.3 * torch.eye(M)
            wanted = plain(lambda kept, j, full=full: torch.logdet(full[[*kept, j]][:, [*kept, j]]))
            assert got[b].tolist() == wanted


@pytest.mark.parametrize("candidates", [3, 64])
@pytest.mark.parametrize("search", [cover_lazy, cover_sequential.greedy])
def test_cover(search, candidates, monkeypatch):
    monkeypatch.setattr(lazy, "_CANDIDATES", candidates)
    got = search(DISTANCE, MASS, K, RANK)
    for b in range(3):
        D, p = DISTANCE[b], MASS[b]
        wanted = plain(lambda kept, j, D=D, p=p: p @ D[:, [*kept, j]].amin(1), maximise=False)
        assert got[b].tolist() == wanted


@pytest.mark.parametrize("candidates", [2, 7, 64])
@pytest.mark.parametrize("seed", range(4))
def test_cover_in_rounds_with_copies_and_nothing(seed, candidates, monkeypatch):
    """Sets that stop at different picks, ties beyond the candidates, and gains that are all
    rounding."""
    monkeypatch.setattr(lazy, "_CANDIDATES", candidates)
    sets = [random_tokens(60, 9), random_tokens(20, 9).repeat(3, 1), torch.zeros(60, 9)]
    D = pairwise(torch.stack(sets))
    g = torch.Generator().manual_seed(seed)
    rank = torch.stack([torch.randperm(60, generator=g) for _ in sets])
    mass = torch.full((3, 60), 1 / 60)
    for k in (1, 25, 60):
        assert cover_lazy(D, mass, k, rank).equal(cover_sequential.greedy(D, mass, k, rank))


@pytest.mark.parametrize("outlier", [1e4, 1e8])
def test_cover_of_a_few_tokens_and_an_outlier(outlier):
    """Costs and masses of many scales, so that the last gains are tiny beside the first ones."""
    points = random_tokens(30, 9).double()
    points[7] *= outlier
    D, rank = pairwise(points[None]), torch.arange(30)[None]
    for mass in (torch.full((1, 30), 1 / 30).double(), torch.logspace(-12, 0, 30)[None].double()):
        assert cover_lazy(D, mass, 30, rank).equal(cover_sequential.greedy(D, mass, 30, rank))


def test_maxmin():
    got = maxmin.greedy(unit_rows(BATCH), K, RANK)
    for b in range(3):
        D = 1 - torch.nn.functional.cosine_similarity(BATCH[b][:, None], BATCH[b][None], dim=-1)
        wanted = plain(
            lambda kept, j, D=D: (
                D[j, kept].min() if kept else D[j, [i for i in range(M) if i != j]].min()
            )
        )
        assert got[b].tolist() == wanted


def test_herding():
    kernel = torch.exp(-DISTANCE / DISTANCE.mean())
    got = herding.greedy(kernel, MASS, K, RANK)
    for b in range(3):
        G, p = kernel[b], MASS[b]
        wanted = plain(lambda kept, j, G=G, p=p: G[j] @ p - G[j, kept].sum() / (len(kept) + 1))
        assert got[b].tolist() == wanted


def test_herding_matches_the_distribution():
    """What it is for: the kept set's kernel mean is nearer to the full one's than at random."""
    kernel = torch.exp(-DISTANCE / DISTANCE.mean())[:1]
    p = torch.full((1, M), 1 / M, dtype=torch.float64)

    def discrepancy(chosen):
        q = torch.zeros(M, dtype=torch.float64)
        q[chosen] = 1 / len(chosen)
        return float((p[0] - q) @ kernel[0] @ (p[0] - q))

    herded = discrepancy(herding.greedy(kernel, p, K, RANK[:1])[0])
    g = torch.Generator().manual_seed(0)
    drawn = sorted(discrepancy(torch.randperm(M, generator=g)[:K]) for _ in range(200))
    assert herded < drawn[2]


def test_herding_does_not_follow_rounding():
    """A kernel of ones but for rounding: scores shrink with every pick, rounding does not."""
    noise = torch.rand(M, M, generator=torch.Generator().manual_seed(2)).double() * 5e-7
    kernel = (1 - noise - noise.T)[None]
    mass = torch.full((1, M), 1 / M, dtype=torch.float64)
    assert herding.greedy(kernel, mass, 20, RANK[:1]).tolist() == [list(range(20))]


def test_what_is_covered_is_worth_nothing_more():
    """Two places, six tokens: after two picks all gains are noise, and the rule decides."""
    x = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    D = (x[:, None] - x[None]).square()[None]
    rank = torch.tensor([[5, 4, 3, 2, 1, 0]])
    assert cover_lazy(D, torch.full((1, 6), 1 / 6), 4, rank)[0].tolist() == [5, 4, 3, 2]


def test_elimination_survives_exhaustion():
    """Rank one: after the first pick the residual is zero, and stays at zero."""
    v = torch.linspace(1, 1e3, 50)[None, :, None]
    for greedy in (logdet.greedy, sequential.greedy):
        order = greedy(LowRank(v, v), 20, torch.arange(50)[None], shift=1e-4)
        assert order[0, 0] == 49
        assert sorted(order[0].tolist()) == sorted(set(order[0].tolist()))


@pytest.mark.parametrize("k", [1, 2, M])
def test_lengths(k):
    for order in (
        cover_lazy(DISTANCE, MASS, k, RANK),
        maxmin.greedy(unit_rows(BATCH), k, RANK),
        herding.greedy(torch.exp(-DISTANCE), MASS, k, RANK),
    ):
        assert order.shape == (3, k)
        assert all(len(set(row)) == k for row in order.tolist())


@pytest.mark.parametrize("candidates", [3, 64])
@pytest.mark.parametrize("copies", [1, 3])
def test_maxmin_with_distances_of_some_at_a_time(candidates, copies, monkeypatch):
    """The same picks, copies and an exhausted set included, on a CPU and step by step."""
    monkeypatch.setattr(maxmin, "_CANDIDATES", candidates)
    monkeypatch.setattr(maxmin, "_BLOCK", 23)
    tokens = torch.stack(
        [random_tokens(90 // copies, 20, seed=s).repeat(copies, 1) for s in (0, 1)]
    )
    wanted = [DivPrune(k).select(tokens) for k in (1, 2, 40, 89)]
    monkeypatch.setattr(maxmin, "MANY", 50)
    monkeypatch.setattr(maxmin, "gram", None)
    assert all(DivPrune(len(w[0])).select(tokens).equal(w) for w in wanted)
    monkeypatch.setattr(maxmin, "host_readable", lambda x: False)
    assert all(DivPrune(len(w[0])).select(tokens).equal(w) for w in wanted)
