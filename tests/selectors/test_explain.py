"""Everything that is said about one selection."""

import math
import sys

import pytest
import torch

from otprune import (
    OTPrune,
    TokenError,
    TransportPrune,
    exact_w2,
    free_mass_w2,
    gaussian_w2,
)
from tests.random_tokens import INFORMED, random_tokens

ALL = pytest.mark.parametrize("method", INFORMED.values(), ids=INFORMED)
X = random_tokens(40, 12)


@ALL
def test_explain_says_what_the_functions_say(method):
    said = method(8).explain(X)
    kept = X[said.indices]
    size = X.double().square().sum(-1).mean().item()
    assert said.indices.equal(method(8).select(X))
    assert said.masses.equal(method(8).reduce(X).masses)
    for name, distance in (
        ("gaussian_w2", gaussian_w2),
        ("exact_w2", exact_w2),
        ("free_mass_w2", free_mass_w2),
    ):
        assert getattr(said, name) == pytest.approx(distance(X, kept))
        assert getattr(said, f"{name}_relative") == pytest.approx(distance(X, kept) / size)


@ALL
def test_a_certificate_where_there_is_one(method):
    said = method(8).explain(X)
    if method in (OTPrune, TransportPrune):
        assert 0 < said.value <= said.bound
        assert said.certificate == pytest.approx(said.value / said.bound)
    else:
        assert said.value is said.bound is said.certificate is said.reference is None


@ALL
def test_keeping_all_leaves_no_distance(method):
    said = method(1.0).explain(X)
    assert said.gaussian_w2 == pytest.approx(0, abs=1e-9)
    assert said.exact_w2 == pytest.approx(0, abs=1e-9)
    assert said.free_mass_w2 == pytest.approx(0, abs=1e-9)


@ALL
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_relative_figures_do_not_depend_on_scale(method, scale):
    one, other = method(8).explain(X), method(8).explain(X * scale)
    for name in ("gaussian_w2_relative", "exact_w2_relative", "free_mass_w2_relative"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-4)
    assert other.certificate == (
        None if one.certificate is None else pytest.approx(one.certificate, rel=1e-4)
    )


def test_euclidean_certificates_do_not_depend_on_scale():
    one = TransportPrune(8, metric="euclidean").explain(X)
    other = TransportPrune(8, metric="euclidean").explain(X * 1e-25)
    assert other.certificate == pytest.approx(one.certificate, rel=1e-4)
    # and the cost in that metric is the free-mass distance itself
    assert one.reference - one.value == pytest.approx(one.free_mass_w2)
    assert one.reference - one.bound <= one.free_mass_w2


@ALL
def test_zero_tokens(method):
    said = method(3).explain(torch.zeros(6, 2))
    assert said.gaussian_w2_relative == said.exact_w2_relative == said.free_mass_w2_relative == 0
    assert said.certificate in (None, 1.0)


@ALL
def test_half_precision(method):
    said = method(8).explain(X.bfloat16())
    assert all(math.isfinite(figure) for figure in vars(said).values() if isinstance(figure, float))


def test_without_pot(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    said = OTPrune(8).explain(X)
    assert said.exact_w2 is None
    assert said.exact_w2_relative is None
    assert said.free_mass_w2 > 0


def test_one_set_at_a_time():
    with pytest.raises(TokenError, match=r"shape \(2, 40, 12\).*one set"):
        OTPrune(8).explain(torch.stack([X, X]))


def test_transport_leads_in_its_own_distance():
    """On clustered tokens greedy transport has the least free-mass distance of all methods."""
    centres = random_tokens(12, 16, seed=3)
    tokens = centres.repeat_interleave(10, dim=0) + 0.2 * random_tokens(120, 16, seed=4)
    said = {name: method(12).explain(tokens).free_mass_w2 for name, method in INFORMED.items()}
    said["euclidean"] = TransportPrune(12, metric="euclidean").explain(tokens).free_mass_w2
    assert min(said, key=said.__getitem__) in ("transport", "euclidean")
