"""A cache remembers that its prompt was pruned, so that the next turn finds its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.engines.transformers.layout import Layout
from otprune.errors import UnsupportedError

CACHE_NAMES = ("cache", "past_key_values")
_ATTRIBUTE = "_otprune_memory"  # on the cache, so that it follows copies of it
_ROW_METHODS = ("reorder_cache", "batch_select_indices", "batch_repeat_interleave")


@dataclass(frozen=True)
class Memory:
    """How a prompt was pruned.

    ids: `(B, S)` of the full prompt.
    layout: of what was kept.
    positions: `(..., B, n)` of what was kept.
    last: `(..., B, 1)`, what the positions of the next tokens count on from: that of the prompt's
        last token, be it dropped or not, in the scheme of `positions`.
    full_last: `(..., B, 1)`, that of the prompt's last token in the full prompt.
    key_bias: `(B, n)` float32, log mass of each column; None without mass.
    compact: the positions are counted anew.
    """

    ids: Tensor
    layout: Layout
    positions: Tensor
    last: Tensor
    full_last: Tensor
    key_bias: Tensor | None = None
    compact: bool = False

    @property
    def has_default_positions(self) -> bool:
        """Whether the positions are those that the model counts by itself if it is told none."""
        return self.compact and self.positions.ndim == 2

    @property
    def gap(self) -> Tensor | None:
        """`(..., B, 1)`: how far the next token stands behind the last kept one, less one.

        Of a prompt that is padded in front; None if there is no gap in any row.
        """
        gap = self.last - self.positions[..., -1:]
        return gap if bool(gap.any()) else None

    def rows(self, indices: Tensor) -> Memory:
        """The rows `(b,)`, some of them or several times."""
        there = indices.to(self.positions.device)
        return Memory(
            self.ids[indices.to(self.ids.device)],
            self.layout.rows(indices),
            self.positions.index_select(-2, there),
            self.last.index_select(-2, there),
            self.full_last.index_select(-2, there),
            None if self.key_bias is None else self.key_bias[indices.to(self.key_bias.device)],
            self.compact,
        )

    def repeated(self, rows: int) -> Memory:
        """For a batch of `rows` rows, as beams and return sequences multiply them."""
        times, odd = divmod(rows, len(self.ids))
        if odd or not times:
            raise UnsupportedError(
                f"the cache holds a pruned prompt of {len(self.ids)} rows, this call has {rows}: "
                "go on with the rows that it was made for"
            )
        if times == 1:
            return self
        return self.rows(torch.arange(len(self.ids)).repeat_interleave(times))


def remember(cache: Any, memory: Memory) -> None:
    """Write on a cache how the prompt that it holds was pruned.

    From then on the memory's rows follow those of the cache when it repeats, selects or reorders
    them.
    """
    if cache is None:
        return
    setattr(cache, _ATTRIBUTE, _SharedMemory(memory))
    for name in _ROW_METHODS:
        if hasattr(type(cache), name):
            setattr(cache, name, _TrackedMethod(cache, name))


@dataclass
class _SharedMemory:
    """What shallow copies of a cache share, as they share its layers."""

    memory: Memory


class _TrackedMethod:
    """A method of a cache that moves its rows, and its memory's with them.

    An object with the cache as attribute, so that a copy of the cache has one of its own.
    """

    def __init__(self, cache: Any, name: str) -> None:
        self._cache = cache
        self._name = name

    def __call__(self, rows: Any) -> Any:
        before, held = _rows_of(self._cache), getattr(self._cache, _ATTRIBUTE, None)
        if before is None and held is not None and length_of(self._cache):
            raise UnsupportedError(
                f"{type(self._cache).__name__}.{self._name} on a pruned prompt: which row went "
                "where is not known for this kind of cache; use a DynamicCache"
            )
        out = getattr(type(self._cache), self._name)(self._cache, rows)
        if held is not None and before is not None:
            memory = held.memory.repeated(before)
            if self._name == "batch_repeat_interleave":
                rows = torch.arange(before).repeat_interleave(rows)
            held.memory = memory.rows(torch.as_tensor(rows))
        return out


def _rows_of(cache: Any) -> int | None:
    """Rows that a cache holds; None while it is empty."""
    for layer in cache.layers:
        keys = getattr(layer, "keys", None)
        if isinstance(keys, Tensor) and keys.numel():
            return len(keys)
    return None


def recall(cache: Any) -> Memory | None:
    """How a cache's prompt was pruned; None for one that holds its prompt whole.

    An emptied cache forgets, since what it is filled with next may be whole.

    Raises:
        UnsupportedError: the cache was cut inside the pruned prompt.
    """
    held: _SharedMemory | None = getattr(cache, _ATTRIBUTE, None)
    if held is None:
        return None
    memory = held.memory
    length = length_of(cache)
    if length == 0:
        _forget(cache)
        return None
    if length < memory.layout.columns.shape[1]:
        raise UnsupportedError(
            "the cache was cropped to less than its pruned prompt: start from a new cache"
        )
    return memory


def _forget(cache: Any) -> None:
    for name in (_ATTRIBUTE, *_ROW_METHODS):
        vars(cache).pop(name, None)


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


def capacity_of(cache: Any) -> int | None:
    """Tokens that a cache can hold; None if it grows, or a window slides over them."""
    sizes = [
        int(layer.max_cache_len)
        for layer in getattr(cache, "layers", ())
        if getattr(layer, "is_compileable", False)
        and hasattr(layer, "max_cache_len")
        and not getattr(layer, "is_sliding", False)
    ]
    return min(sizes, default=None)


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values in a transformers cache; 0 without such."""
    held = [
        x
        for layer in getattr(cache, "layers", [])
        for x in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if isinstance(x, Tensor)
    ]
    return sum(x.numel() * x.element_size() for x in held)
