"""Distances in the four token spaces."""

import pytest
import torch

from otprune import GridPrune
from otprune_bench.embedded.spaces import NAMES, measure
from tests.random_tokens import random_tokens


@pytest.fixture(scope="module")
def tokens():
    return random_tokens(30, 12, seed=4)


@pytest.fixture(scope="module")
def kept():
    return torch.arange(0, 30, 4)


def test_all_are_there_and_none_is_negative(tokens, kept):
    found = measure(tokens, kept)
    assert tuple(found) == NAMES
    assert len(NAMES) == 10
    assert min(found.values()) >= 0


def test_keeping_everything_is_at_no_distance(tokens):
    found = measure(tokens, torch.arange(30))
    assert max(found.values()) == pytest.approx(0, abs=1e-9)


def test_raw_is_what_explain_says(tokens):
    selector = GridPrune(0.3)
    said = selector.explain(tokens)
    found = measure(tokens, said.indices)
    assert found["gaussian raw"] == pytest.approx(said.gaussian_w2_relative, rel=1e-5)
    assert found["exact raw"] == pytest.approx(said.exact_w2_relative, rel=1e-5)
    assert found["free mass raw"] == pytest.approx(said.free_mass_w2_relative, rel=1e-5)


def test_no_distance_sees_the_unit(tokens, kept):
    for name, value in measure(1000 * tokens, kept).items():
        assert value == pytest.approx(measure(tokens, kept)[name], rel=1e-4), name


def test_each_space_ignores_what_it_normalises(tokens, kept):
    here = measure(tokens, kept)
    stretched = measure(tokens * torch.linspace(0.5, 3, 12), kept)
    lengthened = measure(tokens * torch.linspace(0.5, 3, 30)[:, None], kept)
    moved = measure(tokens + 5, kept)
    for distance in ("gaussian", "exact", "free mass"):
        assert stretched[f"{distance} columns"] == pytest.approx(here[f"{distance} columns"], 1e-4)
        assert lengthened[f"{distance} rows"] == pytest.approx(here[f"{distance} rows"], 1e-4)
        assert stretched[f"{distance} raw"] != pytest.approx(here[f"{distance} raw"], 1e-4)
    assert moved["gaussian centred"] == pytest.approx(here["gaussian centred"], 1e-4)
