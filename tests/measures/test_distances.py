"""The three distances against other people's solvers and against closed forms."""

import sys

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from otprune import (
    MissingDependencyError,
    TokenError,
    TransportPrune,
    WeightError,
    exact_w2,
    free_mass_w2,
    gaussian_w2,
)
from tests.random_tokens import random_tokens, small_sets


def squared(full, kept):
    return (full.double()[:, None] - kept.double()[None]).square().sum(-1)


def moments(x, mass, centered):
    mean = mass @ x if centered else np.zeros(x.shape[1])
    return mean, (x - mean).T @ (mass[:, None] * (x - mean))


def bures(A, B):
    """POT's formula, with eigenvalues that rounding made negative cut off (POT gives NaN)."""

    def root(C):
        size, axes = np.linalg.eigh(C)
        return axes * np.sqrt(size.clip(min=0)) @ axes.T

    return np.trace(A + B - 2 * root(root(A) @ B @ root(A)))


@pytest.mark.parametrize("shape", [(12, 5, 4), (30, 9, 4)])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_gaussian_is_pots(shape, centered, weighted):
    m, k, d = shape
    full, kept = random_tokens(m, d).double(), random_tokens(k, d, seed=1).double()
    p = np.arange(1, m + 1) if weighted else np.ones(m)
    ms, Cs = moments(full.numpy(), p / p.sum(), centered)
    mt, Ct = moments(kept.numpy(), np.full(k, 1 / k), centered)
    wanted = ot.gaussian.bures_wasserstein_distance(ms, mt, Cs, Ct) ** 2
    got = gaussian_w2(full, kept, centered=centered, full_mass=p if weighted else None)
    assert got == pytest.approx(wanted, rel=1e-6)


def test_gaussian_of_fewer_tokens_than_features():
    full, kept = random_tokens(6, 10).double(), random_tokens(3, 10, seed=1).double()
    wanted = bures(*((x.T @ x / len(x)).numpy() for x in (full, kept)))
    assert gaussian_w2(full, kept) == pytest.approx(wanted, rel=1e-6)


def test_gaussian_closed_forms():
    # one feature, no centring: (root mean square difference)^2
    full, kept = torch.tensor([[3.0], [-4.0]]), torch.tensor([[1.0], [7.0]])
    assert gaussian_w2(full, kept) == pytest.approx((12.5**0.5 - 5.0) ** 2)
    # a shift: only the means differ
    x = random_tokens(9, 3)
    assert gaussian_w2(x, x + 2.0, centered=True) == pytest.approx(12.0, rel=1e-5)


@given(tokens=small_sets, k=st.integers(1, 8))
def test_free_mass_is_the_linear_program_with_a_free_marginal(tokens, k):
    kept = tokens[:k]
    m, k = len(tokens), len(kept)
    D = squared(tokens, kept).numpy()
    rows = np.kron(np.eye(m), np.ones(k))  # sum_j P_ij = 1/m; no constraint on the columns
    wanted = linprog(D.ravel(), A_eq=rows, b_eq=np.full(m, 1 / m), bounds=(0, None)).fun
    assert free_mass_w2(tokens, kept) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@given(tokens=small_sets, k=st.integers(1, 4))
def test_free_mass_is_the_exact_distance_at_its_own_masses(tokens, k):
    said = TransportPrune(k, metric="euclidean").reduce(tokens)
    free = free_mass_w2(tokens, said.features)
    assert free == pytest.approx(
        exact_w2(tokens, said.features, kept_mass=said.masses), rel=1e-4, abs=1e-9
    )
    assert free <= exact_w2(tokens, said.features) + 1e-9
    assert gaussian_w2(tokens, said.features) <= exact_w2(tokens, said.features) + 1e-9


def test_exact_closed_forms():
    # in one dimension, sorted against sorted
    full, kept = torch.tensor([[1.0], [5.0], [2.0]]), torch.tensor([[7.0], [0.0], [3.0]])
    assert exact_w2(full, kept) == pytest.approx((1 + 1 + 4) / 3)
    # all mass to one point
    assert exact_w2(full, kept, kept_mass=[1, 0, 0]) == pytest.approx((36 + 4 + 25) / 3)
    # a weight that says the full set is one token
    assert exact_w2(full, kept[:1], full_mass=[0, 2, 0]) == pytest.approx(4)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_distances_scale_with_the_square(scale):
    full = random_tokens(12, 5)
    for distance in (gaussian_w2, exact_w2, free_mass_w2):
        one = distance(full, full[:4])
        assert distance(full * scale, full[:4] * scale) == pytest.approx(
            one * scale**2, rel=1e-4, abs=0
        )


@pytest.mark.parametrize("distance", [gaussian_w2, exact_w2, free_mass_w2])
def test_no_distance_from_itself(distance):
    full = random_tokens(12, 5) + 100
    assert 0 <= distance(full, full) <= 1e-9
    assert distance(torch.zeros(3, 2), torch.zeros(1, 2)) == 0
    assert type(distance(full, full[:3])) is float


def test_half_precision_and_numpy():
    full = random_tokens(12, 5)
    half = full.half()
    for distance in (gaussian_w2, exact_w2, free_mass_w2):
        assert distance(half, half[:3]) == distance(half.double(), half[:3].double())
        assert distance(full.numpy(), full[:3].numpy()) == distance(full, full[:3])


@pytest.mark.parametrize("distance", [gaussian_w2, exact_w2, free_mass_w2])
def test_bad_sets(distance):
    full = random_tokens(12, 5)
    with pytest.raises(TokenError, match="kept has shape"):
        distance(full, full[None, :3])
    with pytest.raises(TokenError, match=r"5 features.*kept 4"):
        distance(full, full[:3, :4])
    with pytest.raises(TokenError, match="NaN"):
        distance(full * torch.nan, full)
    with pytest.raises(WeightError, match="negative"):
        distance(full, full[:3], full_mass=-torch.ones(12))


def test_bad_kept_mass():
    full = random_tokens(12, 5)
    with pytest.raises(WeightError, match=r"expected one weight a token, shape \(3,\)"):
        exact_w2(full, full[:3], kept_mass=torch.ones(12))


def test_without_pot_exact_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    full = random_tokens(12, 5)
    with pytest.raises(MissingDependencyError, match=r"pip install 'otprune\[exact\]'"):
        exact_w2(full, full[:3])
