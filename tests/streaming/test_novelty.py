"""What is left of a token beside the kept ones, and what forgetting directions does to it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune.numerics.normalize import unit_rows
from otprune.streaming.novelty import NOISE, Sketch, value
from tests.random_tokens import random_tokens


def points(*shape, seed=0):
    return unit_rows(random_tokens(*shape, seed=seed)[None])[0]


def filled(rank, kept, portion):
    sketch = Sketch(rank, kept[:0], torch.zeros(0, 0))
    for some in kept.split(portion):
        products, _ = sketch.explain(some)
        sketch.add(some, products)
        assert len(sketch.rows) <= sketch.most
        assert torch.allclose(sketch.gram, sketch.rows @ sketch.rows.mT, atol=1e-4)
    return sketch


def novelty(sketch, x):
    return x.square().sum(-1) - sketch.explain(x)[1].square().sum(0)


def by_definition(kept, x):
    kept, x = kept.double(), x.double()
    inverse = torch.linalg.inv(torch.eye(x.shape[1]) + kept.mT @ kept / NOISE)
    return ((x @ inverse) * x).sum(-1)


@pytest.mark.parametrize(("k", "d"), [(0, 5), (3, 9), (9, 3)])
def test_value(k, d):
    x = points(k, d) if k else torch.empty(0, d)
    y = x.double()
    for gram in (y @ y.mT, y.mT @ y):
        wanted = torch.logdet(torch.eye(len(gram)) + gram / NOISE)
        assert value(x) == pytest.approx(float(wanted), rel=1e-9)


def test_gain_is_the_step_of_the_value():
    kept, x = points(7, 12), points(5, 12, seed=1)
    gains = torch.log1p(novelty(filled(12, kept, 7), x) / NOISE)
    for one, gain in zip(x, gains, strict=True):
        step = value(torch.cat([kept, one[None]])) - value(kept)
        assert float(gain) == pytest.approx(step, rel=1e-3)


@pytest.mark.parametrize("portion", [1, 4, 30])
def test_a_full_rank_sketch_is_exact_however_much_was_kept(portion):
    kept, x = points(120, 10), points(20, 10, seed=1)
    sketch = filled(30 if portion == 30 else 10, kept, portion)
    assert sketch.lost == pytest.approx(0, abs=1e-4)
    assert torch.allclose(novelty(sketch, x).double(), by_definition(kept, x), atol=1e-5)


@given(rank=st.integers(1, 8), portion=st.integers(1, 8), seed=st.integers(0, 1000))
def test_a_token_never_looks_less_new_than_it_is(rank, portion, seed):
    kept, x = points(40, 8, seed=seed), points(10, 8, seed=seed + 1)
    sketch = filled(max(rank, portion), kept, portion)
    missing = kept.mT @ kept - sketch.rows.mT @ sketch.rows
    spectrum = torch.linalg.eigvalsh(missing)
    assert spectrum[0] >= -1e-4
    assert spectrum[-1] <= sketch.lost + 1e-4
    assert (novelty(sketch, x) >= by_definition(kept, x) - 1e-4).all()


def test_what_is_forgotten_is_new_again():
    kept = points(1, 6)
    sketch = filled(6, kept, 1)
    assert float(novelty(sketch, kept)) == pytest.approx(NOISE / (1 + NOISE), rel=1e-3)
    sketch.forget(0.5)
    assert float(novelty(sketch, kept)) == pytest.approx(NOISE / (0.5 + NOISE), rel=1e-3)
    for _ in range(40):
        sketch.forget(0.5)
    assert float(novelty(sketch, kept)) == pytest.approx(1, rel=1e-3)
