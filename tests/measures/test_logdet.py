"""Every fact that the method's description states about the log-determinant objective."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune import OTPrune
from otprune.greedy import logdet as search
from otprune.greedy import ties
from otprune.measures import logdet
from tests.random_tokens import best_by_brute_force, random_tokens, small_sets

gammas = st.sampled_from([1e-3, 0.01, 1.0, 100.0])


def naive_kernel(tokens, gamma, weights=None):
    """I + gamma V Sigma V^T, step by step as written."""
    w = torch.ones(tokens.shape[0], dtype=tokens.dtype) if weights is None else weights
    V = tokens / (w[:, None] * tokens**2).sum(0).sqrt()
    sigma = V.T @ torch.diag(w) @ V
    return torch.eye(tokens.shape[0], dtype=tokens.dtype) + gamma * V @ sigma @ V.T


def value(K, chosen):
    return float(torch.logdet(K[chosen][:, chosen])) if chosen else 0.0


def greedy(tokens, gamma, k):
    K = logdet.kernel(tokens[None], gamma)
    rank = torch.arange(tokens.shape[0])[None]
    return search.greedy(K, k, rank, shift=1.0)[0].tolist()


@given(tokens=small_sets, gamma=gammas, weighted=st.booleans())
def test_the_thin_kernel_is_the_written_one(tokens, gamma, weighted):
    tokens = tokens.double()
    w = torch.arange(1.0, tokens.shape[0] + 1).double() if weighted else None
    w = w if w is None else w / w.mean()
    thin = logdet.kernel(tokens[None], gamma, None if w is None else w[None])
    wanted = naive_kernel(tokens, gamma, w) - torch.eye(len(tokens))
    rows = thin.left[0] @ thin.right[0].mT
    torch.testing.assert_close(rows, wanted)
    torch.testing.assert_close(thin.diagonal()[0], wanted.diagonal())


@given(tokens=small_sets, gamma=gammas)
def test_variances_gains_and_value(tokens, gamma):
    """K >= I, every d2 >= 1, gains never grow, and their sum is the log-determinant."""
    tokens = tokens.double()
    K = naive_kernel(tokens, gamma)
    assert torch.linalg.eigvalsh(K).min() >= 1 - 1e-9
    order = greedy(tokens, gamma, len(tokens))
    values = [value(K, order[:t]) for t in range(len(order) + 1)]
    gains = [after - before for before, after in pairwise(values)]
    assert min(gains) >= -1e-9
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(gains))

    K = logdet.kernel(tokens[None], gamma)
    proof = logdet.certify(K, torch.tensor(order))
    walked = [share * proof.bound for share in proof.shares]
    assert walked == pytest.approx(values[1:], abs=1e-7)


@given(tokens=small_sets, gamma=gammas, data=st.data())
def test_monotone_and_submodular(tokens, gamma, data):
    m = len(tokens)
    K = naive_kernel(tokens.double(), gamma)
    shuffled = data.draw(st.permutations(range(m)))
    inner = data.draw(st.integers(0, m - 1))
    outer = data.draw(st.integers(inner, m - 1))
    A, B, x = list(shuffled[:inner]), list(shuffled[:outer]), shuffled[-1]
    small, large = value(K, A), value(K, B)
    assert large >= small - 1e-9
    assert value(K, [*A, x]) - small >= value(K, [*B, x]) - large - 1e-9


@given(tokens=small_sets, gamma=gammas, k=st.integers(1, 4))
def test_bound_optimum_greedy(tokens, gamma, k):
    """bound >= best of all sets >= greedy >= (1 - 1/e) best."""
    k = min(k, len(tokens) - 1)
    K = naive_kernel(tokens.double(), gamma)
    said = OTPrune(k, gamma=gamma).explain(tokens)
    best = best_by_brute_force(lambda c: value(K, c), len(tokens), k)
    assert said.value == pytest.approx(value(K, said.indices.tolist()), rel=1e-6, abs=1e-9)
    assert said.bound >= best - 1e-9
    assert best >= said.value - 1e-9
    assert said.value >= (1 - 1 / math.e) * best - 1e-9
    assert said.certificate == pytest.approx(said.value / said.bound)
    assert 1 - 1 / math.e - 1e-6 <= said.certificate <= 1
    assert said.reference is None


@given(tokens=small_sets, k=st.integers(1, 4), data=st.data())
def test_the_bound_holds_for_any_walk(tokens, k, data):
    """A certificate needs no greedy: a bad set gets a true bound too, and a low ratio."""
    k = min(k, len(tokens) - 1)
    order = data.draw(st.permutations(range(len(tokens))))[:k]
    K = naive_kernel(tokens.double(), 1.0)
    proof = logdet.certify(logdet.kernel(tokens.double()[None], 1.0), torch.tensor(order))
    assert proof.value == pytest.approx(value(K, order), rel=1e-9, abs=1e-9)
    assert proof.bound >= best_by_brute_force(lambda c: value(K, c), len(tokens), k) - 1e-9


def test_certificate_of_everything_and_of_nothing_to_gain():
    assert OTPrune(1.0).explain(random_tokens(6, 4)).certificate == pytest.approx(1)
    zero = OTPrune(2).explain(torch.zeros(6, 4))
    assert (zero.value, zero.bound, zero.certificate) == (0, 0, 1)


def test_scaled_gamma_is_the_papers_at_the_papers_sizes():
    assert logdet.scaled_gamma(576, 4096) == pytest.approx(0.01)
    assert OTPrune(5).gamma_for(576, 4096) == pytest.approx(0.01)
    # method.md's encoder: 256 tokens of 384 features sit far from it
    assert logdet.scaled_gamma(576, 384) == pytest.approx(0.01 * (4096 / 384) ** 2)


@pytest.mark.parametrize(("m", "d"), [(64, 256), (256, 128), (100, 1000)])
def test_scaled_gamma_keeps_the_kernels_balance(m, d):
    """Tokens that share a mean give S near d / m everywhere, and so diag(S S^T) near d^2 / m."""
    tokens = 10 + torch.randn(1, m, d, generator=torch.Generator().manual_seed(m))
    diagonal = logdet.kernel(tokens, logdet.scaled_gamma(m, d)).diagonal()
    assert diagonal.mean() == pytest.approx(0.01 * 4096**2 / 576, rel=0.05)


def test_small_gammas_are_not_rounded_away():
    """At gamma 1e-9 every d2 is 1 in float32, yet the best token is still told from the rest."""
    tokens = random_tokens(40, 8)
    scores = logdet.kernel(tokens.double()[None], 1.0).diagonal()[0]
    wanted = scores.topk(5).indices.sort().values
    assert OTPrune(5, gamma=1e-9).select(tokens).equal(wanted)


@pytest.mark.parametrize("shape", [(60, 12), (60, 200)])
def test_float32_picks_what_float64_picks(shape):
    tokens = random_tokens(*shape)
    K = logdet.kernel(tokens.double()[None], 0.5)
    rank = ties.preference(tokens.norm(dim=-1)[None])
    wanted = search.greedy(K, 12, rank, shift=1.0)[0]
    assert OTPrune(12, gamma=0.5).select(tokens).equal(wanted.sort().values)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("d", "rank"), [(90, None), (20, None), (90, 16)])
def test_a_batch_is_its_sets_one_by_one(d, rank, weighted):
    """As many tokens as features, fewer, and projected."""
    tokens, gamma = random_tokens(5, 60, d).double(), torch.linspace(0.1, 2.0, 5).double()
    w = torch.linspace(0.5, 1.5, 60).double().expand(5, 60) if weighted else None
    K, norms = logdet.kernel_norms(tokens, gamma, w, rank)
    for b in range(5):
        one = slice(b, b + 1)
        k, norm = logdet.kernel_norms(
            tokens[one], float(gamma[b]), None if w is None else w[one], rank
        )
        torch.testing.assert_close(K.left[b] @ K.right[b].mT, k.left[0] @ k.right[0].mT)
        torch.testing.assert_close(norms[one], norm)


@pytest.mark.parametrize("gamma", ["scaled", 1e6, 1e12, 1e18])
def test_more_tokens_than_rank_at_any_gamma(gamma):
    """Rounding is then larger than the shift, and no matrix is positive definite any more."""
    for tokens in (
        random_tokens(60, 3) @ random_tokens(3, 20, seed=1),
        random_tokens(10, 20).repeat(6, 1),
        random_tokens(60, 20),
    ):
        said = OTPrune(40, gamma=gamma).explain(tokens)
        assert math.isfinite(said.value)
        assert said.value <= said.bound
        assert 1 - 1 / math.e - 1e-6 <= said.certificate <= 1
