"""Random tokens by seed, and small problems for hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from hypothesis import strategies as st
from torch import Tensor


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian features around a common mean, with lengths that differ from token to token."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=g) + torch.randn(shape[-1], generator=g)
    return x * (0.5 + torch.rand(*shape[:-1], 1, generator=g))


small_sets = st.builds(
    lambda m, d, seed: random_tokens(m, d, seed=seed),
    m=st.integers(3, 8),
    d=st.integers(1, 10),
    seed=st.integers(0, 10_000),
)


def best_by_brute_force(value: Callable[[list[int]], float], m: int, k: int) -> float:
    """The largest value of any k of m tokens."""
    return max(value(list(c)) for c in combinations(range(m), k))
