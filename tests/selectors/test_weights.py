"""Weights: the full set's masses, where a method has a meaning for them."""

import pytest
import torch

from otprune import METHODS, HerdingPrune, OTPrune, TransportPrune, WeightError
from tests.random_tokens import random_tokens

ABLE = [method for method in METHODS.values() if "weights" in method.uses]
WEIGHTED = pytest.mark.parametrize("method", ABLE, ids=lambda c: c.name)
X = random_tokens(40, 12)
W = torch.rand(40, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", [n for n, c in METHODS.items() if c not in ABLE])
def test_no_meaning(name):
    for call in (METHODS[name](5).select, METHODS[name](5).reduce, METHODS[name](5).explain):
        with pytest.raises(WeightError) as caught:
            call(X, weights=W)
        for method in (METHODS[name], *ABLE):
            assert method.__name__ in str(caught.value)


@WEIGHTED
@pytest.mark.parametrize("value", [1e-12, 0.3, 1, 1e12])
def test_equal_weights_are_no_weights(method, value):
    kept = method(9).select(X)
    assert method(9).select(X, weights=torch.full((40,), value)).equal(kept)
    assert method(9).select(X, weights=[value] * 40).equal(kept)


@WEIGHTED
def test_weights_matter_and_only_by_their_ratios(method):
    kept = method(9).select(X, weights=W)
    assert not kept.equal(method(9).select(X))
    assert method(9).select(X, weights=W * 1e6).equal(kept)
    assert method(9).select(X, weights=W.double().numpy()).equal(kept)


@WEIGHTED
def test_batches(method):
    other = W.flip(0)
    kept = method(9).select(torch.stack([X, X]), weights=torch.stack([W, other]))
    assert kept[0].equal(method(9).select(X, weights=W))
    assert kept[1].equal(method(9).select(X, weights=other))


@pytest.mark.parametrize("method", [OTPrune, TransportPrune, HerdingPrune])
def test_a_whole_number_weight_is_a_repeated_token(method):
    """The full set with a token three times over, from which each may be kept once."""
    weights = torch.ones(40)
    weights[7], weights[11] = 3, 3
    repeated = torch.cat([X, X[[7, 7, 11, 11]]])
    if method is OTPrune:
        one = OTPrune(6, gamma=0.7).select(X, weights=weights)
        # Mean weight one: the second moments are 40/44 of the repeated set's, columns to match.
        many = OTPrune(6, gamma=0.7 * 44 / 40 * 44 / 40 * 40 / 44).select(repeated)
        assert one.tolist() == many.tolist()
    elif method is TransportPrune:
        assert method(6).select(X, weights=weights).equal(method(6).select(repeated))
    else:
        assert method(1).select(X, weights=weights).equal(method(1).select(repeated))


@WEIGHTED
@pytest.mark.parametrize("keep", [5, 1.0])
def test_masses_are_shares_of_the_weight(method, keep):
    said = method(keep).reduce(X, weights=W)
    assert said.masses.sum() == pytest.approx(1, abs=1e-6)
    if keep == 1.0:
        torch.testing.assert_close(said.masses, W / W.sum())


@WEIGHTED
def test_merging_where_nothing_weighs(method):
    """All weight on one token: the groups of the others weigh nothing and keep their features."""
    weights = torch.zeros(40)
    weights[3] = 2
    said = method(5).reduce(X, merge=True, weights=weights)
    owner = said.masses.argmax()
    assert said.masses.tolist() == [float(i == owner) for i in range(5)]
    for i, index in enumerate(said.indices):
        torch.testing.assert_close(said.features[i], X[3] if i == owner else X[index])


@WEIGHTED
def test_explain_takes_weights(method):
    said = method(9).explain(X, weights=W)
    assert said.indices.equal(method(9).select(X, weights=W))
    assert said.free_mass_w2 == pytest.approx(
        float(
            (W / W.sum()).double()
            @ (X.double()[:, None] - X[said.indices].double()).square().sum(-1).amin(1)
        )
    )
    plain = method(9).explain(X)
    uniform = method(9).explain(X, weights=torch.full((40,), 7.0))
    assert uniform.gaussian_w2 == pytest.approx(plain.gaussian_w2)
    assert uniform.exact_w2 == pytest.approx(plain.exact_w2)
    assert uniform.value == (plain.value if plain.value is None else pytest.approx(plain.value))
