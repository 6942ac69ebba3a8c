"""A cache remembers that its prompt was pruned, so that the next turn finds its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from otprune.engines.transformers.layout import Layout
from otprune.errors import UnsupportedError

CACHE_NAMES = ("cache", "past_key_values")
_ATTRIBUTE = "_otprune_memory"  # on the cache, so that it follows copies of it


@dataclass(frozen=True)
class Memory:
    """How a prompt was pruned.

    ids: `(B, S)` of the full prompt.
    layout: of what was kept.
    positions: `(..., B, n)` of what was kept.
    weights: `(B, n)` float32, what attention adds to the logits of each; None if nothing.
    """

    ids: Tensor
    layout: Layout
    positions: Tensor
    weights: Tensor | None = None

    @property
    def last(self) -> Tensor:
        """Position `(..., B, 1)` of the last token of each row's prompt."""
        column = self.layout.valid.long().cumsum(dim=1).argmax(dim=1, keepdim=True)
        column = column.to(self.positions.device).expand(*self.positions.shape[:-1], 1)
        return self.positions.gather(-1, column)

    def repeated(self, rows: int) -> Memory:
        """For a batch of `rows` rows, as beams and return sequences multiply them."""
        times, odd = divmod(rows, len(self.ids))
        if odd or not times:
            raise UnsupportedError(
                f"the cache holds a pruned prompt of {len(self.ids)} rows, this call has {rows}: "
                "go on with the rows that it was made for"
            )
        return Memory(
            self.ids.repeat_interleave(times, dim=0),
            self.layout.repeated(times),
            self.positions.repeat_interleave(times, dim=-2),
            self.weights,  # attention repeats them by itself, as often as it has rows
        )


def remember(cache: Any, memory: Memory) -> None:
    """Write on a cache how the prompt that it holds was pruned."""
    if cache is not None:
        setattr(cache, _ATTRIBUTE, memory)


def recall(cache: Any) -> Memory | None:
    """How a cache's prompt was pruned; None for one that holds its prompt whole.

    An emptied cache forgets, since what it is filled with next may be whole.

    Raises:
        UnsupportedError: the cache was cut inside the pruned prompt.
    """
    memory: Memory | None = getattr(cache, _ATTRIBUTE, None)
    if memory is None:
        return None
    length = length_of(cache)
    if length == 0:
        delattr(cache, _ATTRIBUTE)
        return None
    if length < memory.layout.columns.shape[1]:
        raise UnsupportedError(
            "the cache was cropped to less than its pruned prompt: start from a new cache"
        )
    return memory


def cache_of(holder: Mapping[str, Any] | Any) -> Any:
    """The cache among a call's arguments, or in its output; None if there is none.

    transformers 5.24 renamed `past_key_values` to `cache` and takes either name. A call may carry
    the caller's name or the new one, depending on who made it.
    """
    for name in CACHE_NAMES:
        value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
        if value is not None:
            return value
    return None


def length_of(cache: Any) -> int:
    """Tokens in a cache; 0 for None."""
    return 0 if cache is None else int(cache.get_seq_length())
