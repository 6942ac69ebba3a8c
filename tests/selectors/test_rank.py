"""OTPrune on projected tokens: nearly the same value for less work, and an honest certificate."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from otprune import OTPrune, OTPruneError
from otprune.measures import logdet
from otprune.numerics import arrays
from otprune.numerics.normalize import norms, unit_columns
from otprune.numerics.projection import random_signs, unit_columns_norms
from tests.random_tokens import best_by_brute_force, random_tokens


def test_rank_of_all_features_is_exact():
    tokens = random_tokens(60, 40)
    exact = OTPrune(12).select(tokens)
    for rank in (40, 99, "auto"):
        assert OTPrune(12, rank=rank).select(tokens).equal(exact)
    assert not OTPrune(12, rank=3).select(tokens).equal(exact)


def test_the_same_again_row_by_row_and_whatever_the_global_seed():
    batch = random_tokens(3, 80, 64)
    selector = OTPrune(9, rank=16)
    first = selector.select(batch)
    torch.manual_seed(5)
    assert selector.select(batch).equal(first)
    assert torch.stack([selector.select(row) for row in batch]).equal(first)


@pytest.mark.parametrize("cached", [1, 10**6])
def test_inner_products_are_right_in_the_mean(cached, monkeypatch):
    """Of tokens with columns at unit length; norms too, up to one scale per set."""
    monkeypatch.setattr(arrays, "_AT_ONCE", cached)
    x = random_tokens(1, 5, 90) * 10.0 ** torch.linspace(-3, 3, 90)
    x[..., 7] = 0
    w = torch.tensor([[0.5, 2.0, 1.0, 1.0, 0.5]])
    mean = torch.zeros(1, 5, 5)
    for seed in range(3000):
        sums, size = unit_columns_norms(x, 13, w, 2.0, seed)
        mean += sums @ sums.mT / 3000
        torch.testing.assert_close(size / size.amax(), norms(x) / norms(x).amax())
    V = 2 * unit_columns(x, w)
    torch.testing.assert_close(mean, V @ V.mT, rtol=0.05, atol=0.05 * float((V @ V.mT).amax()))


@pytest.mark.parametrize("seed", [0, 3])
def test_signs_are_splitmix64(seed):
    """As published, in whole numbers without a sign."""
    wanted = []
    for i in range(1, 301):
        z = ((seed << 32) + i) * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        wanted.append(-1 if z >> 63 else 1)
    assert random_signs(300, seed, torch.device("cpu")).tolist() == wanted


def test_value_is_within_a_percent_at_the_default():
    """Tokens like an encoder's: a common part, a falling spectrum, noise."""
    g = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, 201) ** -0.7
    tokens = (torch.randn(500, 200, generator=g) * spectrum) @ torch.randn(200, 768, generator=g)
    tokens += torch.randn(768, generator=g) + 0.1 * torch.randn(500, 768, generator=g)
    values = [OTPrune(0.098, rank=rank).explain(tokens).value for rank in (None, "auto", 32)]
    assert values[1] > 0.99 * values[0]
    assert values[2] > 0.9 * values[0]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), rank=st.integers(1, 5), k=st.integers(1, 3))
def test_the_certificate_is_of_the_exact_objective(seed, rank, k):
    tokens = random_tokens(7, 6, seed=seed)
    selector = OTPrune(k, gamma=1.0, rank=rank)
    said = selector.explain(tokens)
    K = logdet.kernel(tokens.double()[None], 1.0)
    M = K.left[0] @ K.right[0].mT

    def value(chosen):
        return float(torch.logdet(torch.eye(k) + M[chosen][:, chosen]))

    assert said.value == pytest.approx(value(said.indices.tolist()), rel=1e-6)
    assert said.bound >= best_by_brute_force(value, 7, k) - 1e-9


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that comes up; parts of `given` do not count."""

    numel = 0

    def __init__(self, *given):
        super().__init__()
        self.given = [x.untyped_storage().data_ptr() for x in given]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in self.given:
            self.numel = max(self.numel, out.numel())
        return out


def test_no_matrix_of_all_pairs():
    m, d, k = 2000, 64, 40
    tokens = random_tokens(m, d)
    for rank in (None, 32):
        with Largest() as largest:
            OTPrune(k, rank=rank).select(tokens)
        assert largest.numel <= m * d
    with Largest() as largest:
        OTPrune(k).select(random_tokens(600, 700))
    assert largest.numel <= 600 * 700


def test_no_second_array_of_wide_tokens():
    """What is made beside the tokens is as large as some of their columns."""
    m, d, k = 8000, 512, 40
    tokens = random_tokens(m, d)
    with Largest(tokens) as largest:
        OTPrune(k, rank=64).select(tokens)
    assert largest.numel <= m * 150


@pytest.mark.parametrize("rank", [0, -3, 2.5, "low", True, float("nan")])
def test_bad_rank(rank):
    with pytest.raises(OTPruneError, match='expected None, "auto"'):
        OTPrune(0.5, rank=rank)
