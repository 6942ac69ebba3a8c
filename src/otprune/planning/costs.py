"""Formulas: what tokens cost in a language model, and how far pruning can get. Numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from otprune.keep import count

STEPS = 1000  # ratios are looked for in thousandths


@dataclass(frozen=True)
class Attends:
    """One attention layer of a language model.

    Attributes:
        width: operations a pair of a query and a key costs.
        window: keys that a query sees at most, itself among them; None for all.
    """

    width: int
    window: int | None

    def prefill(self, n: int) -> int:
        """Operations of n tokens at once; what the causal mask hides is computed and counted."""
        return self.width * n * self._seen(n)

    def decode(self, n: int, steps: int) -> int:
        """Operations of `steps` tokens, one after the other, behind n that are cached."""
        if self.window is None:
            keys = steps * n + steps * (steps + 1) // 2
        else:
            growing = min(max(self.window - n, 0), steps)
            keys = growing * n + growing * (growing + 1) // 2 + (steps - growing) * self.window
        return self.width * keys

    def _seen(self, n: int) -> int:
        return n if self.window is None else min(n, self.window)


@dataclass(frozen=True)
class Holds:
    """One layer of a KV cache.

    Attributes:
        token_bytes: keys and values of one token.
        most: tokens that it holds at most; None for all.
    """

    token_bytes: int
    most: int | None

    def bytes(self, n: int) -> int:
        """Keys and values of n tokens."""
        return self.token_bytes * (n if self.most is None else min(n, self.most))


@dataclass(frozen=True)
class Language:
    """The sizes of a language model that costs follow from.

    Attributes:
        token_flops: operations of one token in all matrices of the layers; of a mixture of
            experts, in those that a token is sent to.
        head_flops: operations of one token in the vocabulary head.
        attention: its attention layers.
        cache: the layers of its KV cache.
        element_bytes: bytes of a parameter.
    """

    token_flops: int
    head_flops: int
    attention: tuple[Attends, ...]
    cache: tuple[Holds, ...]
    element_bytes: int

    def prefill(self, n: int) -> int:
        """Operations of a prompt of n tokens, up to the scores of the first new token."""
        if n == 0:
            return 0
        attention = sum(layer.prefill(n) for layer in self.attention)
        return n * self.token_flops + attention + self.head_flops

    def decode(self, n: int, steps: int) -> int:
        """Operations of `steps` further tokens behind a prompt of n."""
        attention = sum(layer.decode(n, steps) for layer in self.attention)
        return steps * (self.token_flops + self.head_flops) + attention

    def cache_bytes(self, n: int) -> int:
        """Bytes of the keys and values of n tokens of one sequence."""
        return sum(layer.bytes(n) for layer in self.cache)

    def read_bytes(self, n: int, steps: int) -> int:
        """Bytes that decoding reads: for each token the weights that it uses, and the cache."""
        weights = (self.token_flops + self.head_flops) // 2 * self.element_bytes
        cache = sum(self.cache_bytes(n + i) for i in range(1, steps + 1))
        return steps * weights + cache


def kept(keep: float | int, sizes: Sequence[int]) -> int:
    """Tokens that stay of images of these numbers of tokens."""
    return sum(count(keep, m) for m in sizes)


def largest_keep(fits: Callable[[float], bool]) -> float | None:
    """The largest ratio, in thousandths, that fits; None if not even the smallest does.

    Args:
        fits: of a ratio; if it is true of one, it is true of all that are smaller.
    """
    low, high = 0, STEPS  # low fits, or is 0
    if fits(1.0):
        return 1.0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle / STEPS) else (low, middle)
    return low / STEPS if low else None
