"""Free-mass transport: facility location is the distance, and greedy on it is near the best."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune import TransportPrune
from otprune.measures import transport
from otprune.numerics.distances import squared_distances
from tests.random_tokens import best_by_brute_force, random_tokens, small_sets

metrics = st.sampled_from(["cosine", "euclidean"])


def distances(tokens, metric):
    x = tokens.double()
    if metric == "cosine":
        x = x / x.norm(dim=-1, keepdim=True)
    return (x[:, None] - x[None]).square().sum(-1)


def cost(D, chosen):
    return float(D[:, chosen].min(dim=1).values.mean())


def saved(D, chosen):
    """Decrease from the cost of keeping nothing, when every token pays for the farthest."""
    worst = D.max(dim=1).values
    return float((worst if not chosen else worst - D[:, chosen].min(dim=1).values).mean()) * bool(
        chosen
    )


@given(tokens=small_sets, metric=metrics)
def test_embedding_keeps_the_metrics_distances(tokens, metric):
    points = transport.embed(tokens.double()[None], metric)
    torch.testing.assert_close(
        squared_distances(points, points)[0],
        distances(tokens, metric),
        atol=1e-12,
        rtol=1e-9,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_duplicates_are_at_no_distance_and_others_are(metric, dtype):
    tokens = random_tokens(20, 300).to(dtype).repeat(2, 1)
    points = transport.embed(tokens[None], metric)
    distance = squared_distances(points, points)[0]
    same = torch.eye(20, dtype=torch.bool).repeat(2, 2)
    assert distance.eq(0).equal(same)
    assert (distance >= 0).all()


def test_a_common_offset_does_not_drown_the_distances():
    tokens = random_tokens(30, 8)
    far = tokens + 1000.0
    points = transport.embed(far[None], "euclidean")
    wanted = distances(far, "euclidean").float()
    got = squared_distances(points, points)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


@given(tokens=small_sets, metric=metrics, data=st.data())
def test_monotone_and_submodular(tokens, metric, data):
    m = len(tokens)
    D = distances(tokens, metric)
    shuffled = data.draw(st.permutations(range(m)))
    inner = data.draw(st.integers(0, m - 1))
    outer = data.draw(st.integers(inner, m - 1))
    A, B, x = list(shuffled[:inner]), list(shuffled[:outer]), shuffled[-1]
    small, large = saved(D, A), saved(D, B)
    assert large >= small >= 0
    assert saved(D, [*A, x]) - small >= saved(D, [*B, x]) - large - 1e-9


@pytest.mark.parametrize("block", [1, 2, 256])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_prefix_costs_are_the_costs_of_prefixes(metric, block, monkeypatch):
    monkeypatch.setattr(transport, "_BLOCK", block)
    tokens = random_tokens(2, 9, 4).double()
    mass = torch.rand(2, 9, generator=torch.Generator().manual_seed(1)).double()
    mass = mass / mass.sum(dim=-1, keepdim=True)
    order = torch.tensor([[5, 0, 3, 8, 1], [2, 7, 4, 6, 0]])
    costs = transport.prefix_costs(transport.embed(tokens, metric), order, mass)
    for b in range(2):
        D, p = distances(tokens[b], metric), mass[b]
        wanted = [float(p @ D[:, order[b, :n]].amin(dim=1)) for n in range(1, 6)]
        assert costs[b].tolist() == pytest.approx(wanted)


@given(tokens=small_sets, metric=metrics, k=st.integers(1, 4))
def test_bound_optimum_greedy(tokens, metric, k):
    k = min(k, len(tokens) - 1)
    D = distances(tokens, metric)
    said = TransportPrune(k, metric=metric).explain(tokens)
    chosen = said.indices.tolist()

    # value and bound are decreases from the best single token
    single = -best_by_brute_force(lambda c: -cost(D, c), len(tokens), 1)
    least = -best_by_brute_force(lambda c: -cost(D, c), len(tokens), k)
    close = {"rel": 1e-6, "abs": 1e-7 * float(D.max())}
    assert said.reference == pytest.approx(single, **close)
    assert said.reference - said.value == pytest.approx(cost(D, chosen), **close)
    assert said.bound >= single - least - 1e-9
    assert said.reference - said.bound >= -1e-12
    assert 0 <= said.certificate <= 1
    assert said.certificate >= 1 - (1 - 1 / k) ** (k - 1) - 1e-6

    # the classic guarantee is for decreases from keeping nothing
    best = best_by_brute_force(lambda c: saved(D, c), len(tokens), k)
    assert best >= saved(D, chosen) - 1e-9
    assert saved(D, chosen) >= (1 - 1 / math.e) * best - 1e-9


@given(tokens=small_sets, metric=metrics, k=st.integers(1, 4), data=st.data())
def test_the_bound_holds_for_any_walk(tokens, metric, k, data):
    k = min(k, len(tokens) - 1)
    order = data.draw(st.permutations(range(len(tokens))))[:k]
    D = distances(tokens, metric)
    mass = torch.full((len(tokens),), 1 / len(tokens), dtype=torch.float64)
    proof = transport.certify(D, mass, torch.tensor(order))
    least = -best_by_brute_force(lambda c: -cost(D, c), len(tokens), k)
    assert proof.reference - proof.value == pytest.approx(cost(D, order))
    assert proof.reference - proof.bound <= least + 1e-9


def test_certificate_at_the_ends():
    tokens = random_tokens(7, 3)
    assert TransportPrune(1).explain(tokens).certificate == 1
    everything = TransportPrune(1.0).explain(tokens)
    assert everything.certificate == pytest.approx(1)
    assert everything.value == pytest.approx(everything.reference)
    assert TransportPrune(2).explain(torch.ones(7, 3)).certificate == 1


def test_a_kept_token_belongs_to_itself_among_duplicates():
    points = torch.tensor([[[0.0], [0.0], [0.0], [5.0]]])
    assert transport.assign(points, torch.tensor([[1, 2, 3]])).tolist() == [[0, 0, 1, 2]]


def test_the_plan_moves_all_mass_to_the_nearest():
    points = torch.tensor([[[0.0], [1.0], [9.0], [10.0]]])
    nearest = transport.assign(points, torch.tensor([[1, 3]]))
    mass = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    plan = transport.plan(nearest, mass, 2)
    torch.testing.assert_close(plan, torch.tensor([[[0.1, 0.2, 0, 0], [0, 0, 0.3, 0.4]]]))
