"""Ties and rounding, the same in every greedy search by log-determinant."""

import numpy as np
import pytest
import torch

from otprune.greedy import logdet
from otprune.greedy.logdet import dense, sequential
from otprune.numerics.lowrank import LowRank
from tests.random_tokens import random_tokens

ulp = torch.finfo(torch.float32).eps


@pytest.fixture(params=["dense", "speculative", "sequential", "triton"])
def picks(request, monkeypatch):
    """Of tokens, `(m, r)`, in the order of `M = x x^T`: a list. CPU tensors, or the interpreter."""
    if request.param == "triton":
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("the interpreter is for machines without a GPU")
        from otprune.greedy.logdet import triton_kernel

        search = triton_kernel.greedy
    else:
        search = sequential.greedy if request.param == "sequential" else logdet.greedy
        if request.param == "speculative":
            monkeypatch.setattr(dense, "MOST", 0)

    def pick(x, k, rank, shift):
        with np.errstate(over="raise", invalid="raise"):
            return search(LowRank(x[None], x[None]), k, torch.tensor([rank]), shift)[0].tolist()

    return pick


def test_the_preferred_of_those_within_tolerance(picks):
    """Of two tokens that are one but for rounding the preferred, be it the shorter."""
    v = random_tokens(1, 30)
    for times, tied in ((1 + 2 * ulp, True), (1 + 40 * ulp, False)):
        x = torch.cat([v, v * times, 0.1 * random_tokens(3, 30, seed=1)])
        assert picks(x, 1, [0, 1, 2, 3, 4], 1.0) == [0 if tied else 1]
        assert picks(x, 1, [4, 3, 2, 1, 0], 1.0) == [1]


@pytest.mark.parametrize("r", [1, 3])
@pytest.mark.parametrize(("scale", "shift"), [(1e3, 1e-8), (1e9, 1.0)])
def test_what_is_exhausted_comes_by_preference(picks, r, scale, shift):
    """All are picked, of a rank that is soon used up. Rounding is then worth more than the shift:
    it must not grow from pick to pick, and once it is used up too, nothing but the rule is left."""
    m = 40
    order = picks(scale * random_tokens(m, r), m, list(range(m))[::-1], shift)
    assert sorted(order) == list(range(m))
    assert order[m // 2 :] == sorted(order[m // 2 :], reverse=True)
