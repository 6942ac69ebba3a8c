"""Mass in attention: exact where a cell's tokens are equal, nothing where nothing was dropped."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune import OTPruneError, TransportPrune, exact_w2
from otprune.measures import transport
from otprune.measures.distances import exact_plan
from otprune.measures.mass import (
    attention_error,
    check_alpha,
    check_mass,
    counts,
    log_distance,
    log_mass,
)
from tests.random_tokens import random_tokens, small_sets

METRICS = ("cosine", "euclidean")
metrics = st.sampled_from(METRICS)


def attention(m, d=6, queries=5, seed=0):
    """Queries, and what reads keys and values off tokens: equal tokens give equal ones."""
    q, to_key, to_value = (
        random_tokens(*s, seed=seed).double() for s in [(queries, d)] + 2 * [(d, d)]
    )
    return q, lambda x: x.double() @ to_key, lambda x: x.double() @ to_value


def free_masses(tokens, indices, metric="cosine", weights=None):
    w = None if weights is None else weights[None]
    return transport.free_plan(tokens[None], indices[None], metric, w)[0].sum(-1)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    metric=metrics,
    seed=st.integers(0, 1000),
)
def test_equal_tokens_in_a_cell_make_token_mass_exact(sizes, metric, seed):
    k, m = len(sizes), sum(sizes)
    cells = random_tokens(k, 6, seed=seed)
    tokens = cells.repeat_interleave(torch.tensor(sizes), dim=0)
    kept = torch.tensor([sum(sizes[:j]) for j in range(k)])
    masses = free_masses(tokens, kept, metric)
    torch.testing.assert_close(counts(masses, m), torch.tensor(sizes).float())

    q, key, value = attention(m, seed=seed)
    arguments = q, key(tokens), value(tokens), kept
    size = value(tokens).norm()
    assert attention_error(*arguments, log_mass(masses, m, "token")).max() < 1e-6 * size
    if len(set(sizes)) == 1:
        assert attention_error(*arguments).max() < 1e-9 * size
        assert attention_error(*arguments, log_mass(masses, m, "total")).max() < 1e-6 * size
    elif k > 1:
        assert attention_error(*arguments).max() > 1e-4 * size


def test_against_text_total_mass_is_exact_for_equal_cells_and_no_mass_is_not():
    """Five text keys, then twelve image tokens in four cells of three."""
    cells, text = random_tokens(4, 6, seed=1), random_tokens(5, 6, seed=2)
    image = cells.repeat_interleave(3, dim=0)
    tokens = torch.cat([text, image])
    kept = torch.cat([torch.arange(5), 5 + torch.arange(0, 12, 3)])
    q, key, value = attention(17)
    bias = torch.cat([torch.zeros(5), log_mass(torch.full((4,), 0.25), 12, "total")])
    assert attention_error(q, key(tokens), value(tokens), kept, bias).max() < 1e-5
    without, half = (
        attention_error(q, key(tokens), value(tokens), kept, alpha * bias).sum()
        for alpha in (0, 0.5)
    )
    assert without > half > 1e-2


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_dropped_nothing_added(metric):
    tokens = random_tokens(23, 6)
    masses = free_masses(tokens, torch.arange(23), metric)
    q, key, value = attention(23)
    for mass in ("none", "total", "token"):
        bias = log_mass(masses, 23, mass)
        torch.testing.assert_close(bias, torch.zeros(23), atol=1e-6, rtol=0)
        assert attention_error(q, key(tokens), value(tokens), torch.arange(23), bias).max() < 1e-5


@given(tokens=small_sets, metric=metrics, data=st.data())
def test_mass_is_conserved(tokens, metric, data):
    m = len(tokens)
    kept = data.draw(st.permutations(range(m)))[: data.draw(st.integers(1, m))]
    indices = torch.tensor(sorted(kept))
    masses = free_masses(tokens, indices, metric)
    assert masses.sum().item() == pytest.approx(1)
    assert (masses >= 1 / m - 1e-6).all()  # a kept token belongs to itself
    for mass in ("total", "token"):
        assert log_mass(masses, m, mass).exp().sum().item() == pytest.approx(m, rel=1e-5)
        assert log_mass(masses, m, mass, alpha=0).eq(0).all()
    assert log_mass(masses, m, "none").eq(0).all()


def test_what_is_added():
    masses = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], dtype=torch.float64)
    uniform = torch.full((2, 3), math.log(40 / 3))
    torch.testing.assert_close(log_mass(masses, 40, "total"), uniform)
    torch.testing.assert_close(log_mass(uniform * 0 + 1 / 3, 40, "token"), uniform)
    torch.testing.assert_close(
        log_mass(masses, 40, "token", alpha=0.5),
        0.5 * torch.tensor([[20.0, 10, 10], [8, 8, 24]]).log(),
    )
    for mass in ("none", "total", "token"):
        said = log_mass(masses, 40, mass)
        assert (said.shape, said.dtype) == ((2, 3), torch.float32)


def test_a_kept_token_that_counts_nothing_is_hidden_and_makes_no_nan():
    tokens = torch.tensor([[1.0, 0], [0, 1], [0, 1.1]])
    masses = free_masses(tokens, torch.tensor([0, 1]), weights=torch.tensor([0.0, 1.5, 1.5]))
    assert masses.tolist() == [0, 1]
    bias = log_mass(masses, 3, "token")
    assert bias.isfinite().all()
    assert bias.softmax(-1).tolist() == pytest.approx([0, 1])
    assert log_mass(masses, 3, "total").tolist() == pytest.approx([math.log(1.5)] * 2)


@pytest.mark.parametrize("metric", METRICS)
def test_merging_again_adds_the_masses_up(metric):
    """40 tokens, 12 of them merged, 5 of those: a weighted mean of means is the mean of all."""
    tokens, first = random_tokens(40, 6), torch.arange(0, 36, 3)
    plan = transport.free_plan(tokens[None], first[None], metric)[0]
    masses = plan.sum(-1)
    merged = (plan @ tokens) / masses[:, None]
    second = torch.tensor([0, 3, 4, 7, 11])
    again = transport.free_plan(merged[None], second[None], metric, 12 * masses[None])[0]
    whole = (again / masses) @ plan  # from the 5 to the 40
    torch.testing.assert_close(again.sum(-1), whole.sum(-1))
    torch.testing.assert_close(whole.sum(0), torch.full((40,), 1 / 40))
    torch.testing.assert_close(again @ merged, whole @ tokens)


@given(tokens=small_sets, k=st.integers(1, 4), seed=st.integers(0, 100))
def test_the_exact_plan_has_the_masses_prescribed_and_costs_the_distance(tokens, k, seed):
    kept = tokens[:k]
    q = torch.rand(len(kept), generator=torch.Generator().manual_seed(seed)) + 0.1
    plan = exact_plan(tokens, kept, kept_mass=q)
    torch.testing.assert_close(plan.sum(1), (q / q.sum()).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(plan.sum(0), torch.full((len(tokens),), 1 / len(tokens)).double())
    cost = (kept.double()[:, None] - tokens.double()[None]).square().sum(-1)
    assert float((plan * cost).sum()) == pytest.approx(
        exact_w2(tokens, kept, kept_mass=q), rel=1e-6, abs=1e-9
    )


def test_the_exact_plan_of_tokens_at_one_place_has_the_masses_too():
    plan = exact_plan(torch.ones(4, 3), torch.ones(2, 3), kept_mass=[1, 3])
    assert plan.sum(1).tolist() == pytest.approx([0.25, 0.75])
    assert plan.sum(0).tolist() == pytest.approx([0.25] * 4)


def test_with_free_masses_prescribed_the_exact_plan_is_the_free_one():
    tokens = random_tokens(30, 6)
    said = TransportPrune(5, metric="euclidean").reduce(tokens)
    free = transport.free_plan(tokens[None], said.indices[None], "euclidean")[0]
    exact = exact_plan(tokens, said.features, kept_mass=said.masses)
    torch.testing.assert_close(exact, free.double(), atol=1e-7, rtol=0)


def test_attention_error_over_heads_and_by_sdpa():
    q, k, v = (random_tokens(2, 3, n, 8, seed=n).double() for n in (4, 9, 10))
    v = v[:, :, :9]
    kept = torch.tensor([0, 2, 5])
    bias = torch.tensor([0.0, 1.0, -2.0]).double()
    sdpa = torch.nn.functional.scaled_dot_product_attention
    for scale in (None, 0.3):
        full = sdpa(q, k, v, scale=scale)
        part = sdpa(q, k[:, :, kept], v[:, :, kept], attn_mask=bias.expand(4, 3), scale=scale)
        said = attention_error(q, k, v, kept, bias, scale)
        torch.testing.assert_close(said, (full - part).norm(dim=-1))
    each = kept.expand(2, 3, 3)
    assert attention_error(q, k, v, each).equal(attention_error(q, k, v, kept))


@pytest.mark.parametrize("mass", ["tokens", None, True, 1.0])
def test_bad_mass(mass):
    with pytest.raises(OTPruneError, match='expected "none", "total" or "token"'):
        check_mass(mass)
    with pytest.raises(OTPruneError, match="mass="):
        log_mass(torch.ones(1), 4, mass)


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf"), 1e39, "1", None, True])
def test_bad_alpha(alpha):
    with pytest.raises(OTPruneError, match=r"expected a number (>= 0|from 0 to 100)"):
        check_alpha(alpha)
    with pytest.raises(OTPruneError, match="alpha="):
        log_mass(torch.ones(1), 4, "none", alpha)


def test_more_masses_than_tokens():
    with pytest.raises(OTPruneError, match="5 kept tokens of 4"):
        log_mass(torch.full((5,), 0.2), 4, "token")


@pytest.mark.parametrize("rotated", [8, 4])
def test_the_distance_term_is_its_formula(rotated):
    """log(2 - D), D = 2/d sum_j cos(t theta_j); features that are not rotated have cos 0 = 1."""
    head, theta = 8, 10_000.0
    places = torch.tensor([0.0, 1.0, 7.0, 300.0])
    angles = [theta ** (-2 * j / rotated) for j in range(rotated // 2)]
    turned = places[:, None] * torch.tensor(angles).repeat(2)
    features = torch.cat([turned.cos(), turned.sin()], dim=-1)
    term = log_distance(features[1:], features, head)
    assert term.shape == (3, 4)
    for q, m in enumerate(places[1:].tolist()):
        for k, n in enumerate(places.tolist()):
            cosines = [math.cos((m - n) * angle) for angle in angles]
            mean = 2 / head * (sum(cosines) + (head - rotated) / 2)
            assert float(term[q, k]) == pytest.approx(math.log(2 - mean), abs=1e-5)
    assert float(term[0, 1]) == pytest.approx(0, abs=1e-6)
