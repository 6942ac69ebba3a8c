"""Random tokens by seed, and small problems for hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from otprune import METHODS, Cues, Selector


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian features around a common mean, with lengths that differ from token to token."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=g) + torch.randn(shape[-1], generator=g)
    return x * (0.5 + torch.rand(*shape[:-1], 1, generator=g))


def cues_for(method: Selector | type[Selector], tokens: Any, seed: int = 0) -> Cues:
    """What a method needs to know of the tokens, made up, but always the same for a token.

    So a batch is its sets, duplicates are duplicates in every cue, and neither the scale nor the
    dtype nor the order of the tokens changes what is known of each. There are 5 words in a
    question, in the space of the tokens.
    """
    x = tokens if isinstance(tokens, Tensor) else torch.from_numpy(tokens.copy())
    x = x.detach().float().clone(memory_format=torch.contiguous_format)
    unit = x / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-38)
    unit = unit / unit.norm(dim=-1, keepdim=True).clamp(min=1e-38)
    d = x.shape[-1]

    def drawn(rows: int) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        return torch.randn(rows, d, generator=g, dtype=torch.float32).to(x.device)

    def seen(width: int) -> Tensor:
        # Row by row, so that the place of a token does not change the last bits.
        return (unit.unsqueeze(-2) * drawn(width)).sum(dim=-1)

    made: dict[str, Callable[[], Tensor]] = {
        "saliency": lambda: seen(1).squeeze(-1).exp() / x.shape[-2],
        "keys": lambda: seen(6).unflatten(-1, (2, 3)),
        "encoded": lambda: seen(9),
        "question": lambda: drawn(5).expand(*x.shape[:-2], -1, -1),
    }
    return Cues(**{name: made[name]() for name in method.needs})


class Informed:
    """A method, or a selector, whose calls are given what it needs, see `cues_for`."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __call__(self, *args: Any, **kwargs: Any) -> Informed:
        return Informed(self._of(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def select(self, tokens: Any, **more: Any) -> Any:
        return self._of.select(tokens, cues=cues_for(self._of, tokens), **more)

    def reduce(self, tokens: Any, **more: Any) -> Any:
        return self._of.reduce(tokens, cues=cues_for(self._of, tokens), **more)

    def explain(self, tokens: Any, **more: Any) -> Any:
        return self._of.explain(tokens, cues=cues_for(self._of, tokens), **more)

    def select_each(self, sets: Any, **more: Any) -> Any:
        return self._of.select_each(sets, cues=[cues_for(self._of, x) for x in sets], **more)

    def reduce_each(self, sets: Any, **more: Any) -> Any:
        return self._of.reduce_each(sets, cues=[cues_for(self._of, x) for x in sets], **more)

    def cells_each(self, sets: Any, **more: Any) -> Any:
        return self._of.cells_each(sets, cues=[cues_for(self._of, x) for x in sets], **more)

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        return self._of.pick(tokens, k, cues_for(self._of, tokens))


# Every method, given what it needs; those that need nothing as they are.
INFORMED: dict[str, Any] = {n: Informed(c) if c.needs else c for n, c in METHODS.items()}
# Methods that need nothing but the tokens.
TOKENS_ALONE = {name: method for name, method in METHODS.items() if not method.needs}


small_sets = st.builds(
    lambda m, d, seed: random_tokens(m, d, seed=seed),
    m=st.integers(3, 8),
    d=st.integers(1, 10),
    seed=st.integers(0, 10_000),
)


def best_by_brute_force(value: Callable[[list[int]], float], m: int, k: int) -> float:
    """The largest value of any k of m tokens."""
    return max(value(list(c)) for c in combinations(range(m), k))
