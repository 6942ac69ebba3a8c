"""Greedy facility location without all distances at once is greedy with them, ties included."""

import pytest
import torch

from otprune import TransportPrune
from otprune.greedy import cover, ties
from otprune.greedy.cover import blockwise
from otprune.greedy.cover import sequential as cover_sequential
from otprune.measures import transport
from otprune.numerics.distances import Points, pairwise
from tests.random_tokens import random_tokens


@pytest.fixture(
    autouse=True,
    params=[{"_BLOCK": 64, "_NEAR": 16, "_SAMPLE": 32, "_MOST": 40}, {"_BLOCK": 23, "_NEAR": 5}],
    ids=["few near", "hardly any near"],
)
def sizes(request, monkeypatch):
    """Several blocks, early and late picks, and tokens that come late to what is near."""
    for name, value in request.param.items():
        monkeypatch.setattr(blockwise, name, value)


def check(tokens, k, metric="cosine", mass=None):
    points, norms = transport.embed_norms(tokens[None], metric)
    mass = torch.ones(len(tokens)) if mass is None else mass
    mass = mass / mass.sum()
    rank = ties.preference(norms)
    wanted = cover_sequential.greedy(pairwise(points), mass[None], k, rank)[0]
    got = blockwise.greedy(Points(points[0]), mass, k, rank[0])
    assert got.equal(wanted)


def clusters(m, d, spread=0.3):
    centres = random_tokens(7, d, seed=1)
    member = torch.randint(0, 7, (m,), generator=torch.Generator().manual_seed(2))
    return centres[member] + spread * random_tokens(m, d, seed=3)


SETS = {
    "independent": lambda: random_tokens(300, 40),
    "one dimension to speak of": lambda: random_tokens(300, 1) @ random_tokens(1, 20) + 1,
    "three dimensions": lambda: random_tokens(300, 3) @ random_tokens(3, 20),
    "clusters": lambda: clusters(300, 20),
    "copies": lambda: random_tokens(60, 20).repeat(5, 1),
    "zeros among them": lambda: (
        random_tokens(150, 20).repeat(2, 1) * (torch.arange(300) % 2)[:, None]
    ),
    "nothing but zeros": lambda: torch.zeros(200, 5),
    "few": lambda: random_tokens(9, 20),
}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("tokens", SETS.values(), ids=SETS)
def test_the_same_picks(tokens, metric):
    tokens = tokens()
    for k in {1, 2, min(30, len(tokens) - 1), len(tokens) - 1}:
        check(tokens, k, metric)


@pytest.mark.parametrize("power", [1, 6])
def test_the_same_picks_of_weighted_tokens(power):
    """At the sixth power some weigh next to nothing, and are covered last."""
    mass = torch.rand(300, generator=torch.Generator().manual_seed(5)) ** power
    mass[::7] = 0
    check(clusters(300, 20), 60, mass=mass)


def test_a_few_huge_tokens():
    """Their distances are no measure for those of the others."""
    tokens = random_tokens(300, 20)
    tokens[::60] *= 30
    check(tokens, 100, "euclidean")


def test_a_token_pays_by_what_was_looked_up_alone_or_among_many(monkeypatch):
    """BLAS sums a single row in another order: nobody asks for one."""
    asked = []
    distances = Points.distances

    def noted(self, rows, columns):
        found = distances(self, rows, columns)
        asked.append(found.shape)
        return found

    monkeypatch.setattr(Points, "distances", noted)
    check(clusters(300, 20), 40)
    assert min(min(shape) for shape in asked if 0 not in shape) > 3


def test_bounds_are_above_what_is_saved_and_near_it(monkeypatch):
    """Of candidates that are looked at again when others have been picked."""
    at_most, asked = blockwise._Bounded._at_most, []

    def checked(self, candidates):
        bounds = at_most(self, candidates)
        saved = self._saved_by(self._columns(torch.from_numpy(candidates)))
        assert (bounds >= saved).all()
        assert (bounds <= saved * (1 + 1e-5) + 1.1 * self.unit).all()
        asked.append(len(candidates))
        return bounds

    monkeypatch.setattr(blockwise._Bounded, "_at_most", checked)
    check(clusters(300, 20), 100)
    assert sum(asked) > 10


def test_gains_are_off_by_no_more_than_is_said(monkeypatch):
    lower, asked = blockwise._Bounded._lower, []

    def checked(self):
        lower(self)
        saved = self._saved_by(self._columns(torch.arange(len(self.mass))))
        assert ((self.gains - saved).abs() <= self.error - self.known).all()
        asked.append(len(self.order))

    monkeypatch.setattr(blockwise._Bounded, "_lower", checked)
    check(clusters(300, 20), 100)
    assert asked


def test_a_wrong_first_token_is_noticed(monkeypatch):
    """The costs of single tokens by formula are only a guess."""
    costs, asked = Points.costs, []

    def wrong(self, mass):
        asked.append(mass)
        return -costs(self, mass)

    monkeypatch.setattr(Points, "costs", wrong)
    check(clusters(200, 20), 20)
    assert len(asked) == 1


def test_the_selector_has_it_where_there_are_many(monkeypatch):
    tokens = torch.stack([clusters(120, 16), random_tokens(120, 16)])
    w = torch.rand(2, 120, generator=torch.Generator().manual_seed(1))
    wanted = TransportPrune(30).select(tokens, weights=w)
    monkeypatch.setattr(cover, "MANY", 100)
    monkeypatch.setattr(cover, "pairwise", None)
    got = TransportPrune(30).select(tokens, weights=w)
    assert got.equal(wanted)
    for row, x, weights in zip(got, tokens, w, strict=True):
        assert row.equal(TransportPrune(30).select(x, weights=weights))


def test_pairs_find_room():
    pairs = blockwise._Pairs(2)
    for n in (3, 100, 1000):
        pairs.add(torch.arange(n).numpy(), torch.arange(n).numpy() + 1, torch.rand(n).numpy())
    pairs.keep(lambda i, near: i < 50)
    owner, other, near = pairs.take()
    assert owner.tolist() == sorted([*range(3), *range(50), *range(50)])
    assert (other == owner + 1).all()
    assert len(near) == 103
