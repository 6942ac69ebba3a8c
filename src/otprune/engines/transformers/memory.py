"""A record on each KV cache of how its prompt was pruned, for the calls that continue on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.engines.common.layer_stage import LayerStage
from otprune.engines.transformers.layout import Layout
from otprune.errors import UnsupportedError

CACHE_NAMES = ("cache", "past_key_values")
_ATTRIBUTE = "_otprune_memory"  # an attribute of the cache, so that copies of it have it
_ROW_METHODS = ("reorder_cache", "batch_select_indices", "batch_repeat_interleave")


@dataclass(frozen=True)
class LayerCut:
    """What one cut of a layer stage kept of the prompts of a call.

    layer: index of the first layer behind it.
    layout: which columns of the shortened prompt the layers behind it hold.
    kept: `(B,)` int64, number of visual tokens among them.
    whole: whether no prompt has lost a token so far; then the layers also hold its padding.
    filled: whether rows are filled up, since others hold more tokens.
    """

    layer: int
    layout: Layout
    kept: Tensor
    whole: bool
    filled: bool

    @property
    def columns(self) -> Tensor:
        """`(B, n')` int64, the columns in ascending order, -1 where a row is filled up."""
        return self.layout.columns


@dataclass(frozen=True)
class Deep:
    """A layer stage, and what it kept of a prompt.

    visual: `(B, n)` bool, the visual tokens of the shortened prompt that may be dropped: all but
        the last token of the prompt, from which the answer starts.
    valid: `(B, n)` bool, False at its padding.
    cuts: empty until the prompt has gone through the model.
    """

    stage: LayerStage
    visual: Tensor
    valid: Tensor
    cuts: list[LayerCut]

    def rows(self, indices: Tensor) -> Deep:
        """The prompts with these indices `(b,)`."""
        there = indices.to(self.visual.device)
        cuts = [
            LayerCut(cut.layer, cut.layout.rows(indices), cut.kept[there], cut.whole, cut.filled)
            for cut in self.cuts
        ]
        return Deep(self.stage, self.visual[there], self.valid[there], cuts)


@dataclass(frozen=True)
class Memory:
    """How a prompt was pruned.

    ids: `(B, S)`, the full prompt.
    layout: which columns of it were kept.
    positions: `(..., B, n)`, positions of the pruned prompt.
    last: `(..., B, 1)`, the position before that of the next token, in the scheme of `positions`.
        "preserved": that of the full prompt's last token, even if it was dropped. "compact": that
        of the last kept token.
    full_last: `(..., B, 1)`, position of the last token of the full prompt.
    key_bias: `(B, n)` float32, log mass of each column; None without mass and distance.
    distance: `(B, n)` float32, factor of the distance term of each column; None without it.
    compact: whether positions were counted again without gaps.
    deep: what a layer stage kept of it; None without one.
    """

    ids: Tensor
    layout: Layout
    positions: Tensor
    last: Tensor
    full_last: Tensor
    key_bias: Tensor | None = None
    distance: Tensor | None = None
    compact: bool = False
    deep: Deep | None = None

    @property
    def has_default_positions(self) -> bool:
        """Whether the model would compute the same positions if given none."""
        return self.compact and self.positions.ndim == 2

    @property
    def gap(self) -> Tensor | None:
        """`(..., B, 1)`: positions that are skipped between the last kept token and the next one.

        For left-padded prompts. None if no sequence has a gap.
        """
        gap = self.last - self.positions[..., -1:]
        return gap if bool(gap.any()) else None

    def rows(self, indices: Tensor) -> Memory:
        """The sequences with these indices `(b,)`; an index may occur several times."""
        there = indices.to(self.positions.device)
        return Memory(
            self.ids[indices.to(self.ids.device)],
            self.layout.rows(indices),
            self.positions.index_select(-2, there),
            self.last.index_select(-2, there),
            self.full_last.index_select(-2, there),
            _rows(self.key_bias, indices),
            _rows(self.distance, indices),
            self.compact,
            None if self.deep is None else self.deep.rows(indices),
        )

    def repeated(self, rows: int) -> Memory:
        """For a batch of `rows` sequences: each is repeated as for beams and return sequences."""
        times, odd = divmod(rows, len(self.ids))
        if odd or not times:
            raise UnsupportedError(
                f"the cache holds {len(self.ids)} pruned sequences, this call has {rows}: go on "
                "with those that it was made for"
            )
        if times == 1:
            return self
        return self.rows(torch.arange(len(self.ids)).repeat_interleave(times))


def _rows(x: Tensor | None, indices: Tensor) -> Tensor | None:
    return None if x is None else x[indices.to(x.device)]


def remember(cache: Any, memory: Memory) -> None:
    """Record on a cache how its prompt was pruned.

    When the cache later repeats, selects or reorders its sequences, so does the record.
    """
    if cache is None:
        return
    setattr(cache, _ATTRIBUTE, _SharedMemory(memory))
    for name in _ROW_METHODS:
        if hasattr(type(cache), name):
            setattr(cache, name, _TrackedMethod(cache, name))


@dataclass
class _SharedMemory:
    """Holds the memory. Shallow copies of a cache share it, as they share the layers."""

    memory: Memory


class _TrackedMethod:
    """Wraps a cache method that changes the batch, and changes the memory in the same way.

    It holds the cache as an attribute, so that a deep copy of the cache gets a wrapper of its own.
    """

    def __init__(self, cache: Any, name: str) -> None:
        self._cache = cache
        self._name = name

    def __call__(self, rows: Any) -> Any:
        before, shared = _rows_of(self._cache), getattr(self._cache, _ATTRIBUTE, None)
        if before is None and shared is not None and length_of(self._cache):
            raise UnsupportedError(
                f"{type(self._cache).__name__}.{self._name} on a pruned prompt: which sequence "
                "went where is not known for this kind of cache; use a DynamicCache"
            )
        out = getattr(type(self._cache), self._name)(self._cache, rows)
        if shared is not None and before is not None:
            memory = shared.memory.repeated(before)
            if self._name == "batch_repeat_interleave":
                rows = torch.arange(before).repeat_interleave(rows)
            shared.memory = memory.rows(torch.as_tensor(rows))
        return out


def _rows_of(cache: Any) -> int | None:
    """Batch size of a cache; None while it is empty."""
    for layer in cache.layers:
        keys = getattr(layer, "keys", None)
        if isinstance(keys, Tensor) and keys.numel():
            return len(keys)
    return None


def recall(cache: Any) -> Memory | None:
    """How a cache's prompt was pruned; None if it was not.

    The record of an emptied cache is deleted, since the next prompt may not be pruned.

    Raises:
        UnsupportedError: the cache was cut inside the pruned prompt.
    """
    shared: _SharedMemory | None = getattr(cache, _ATTRIBUTE, None)
    if shared is None:
        return None
    memory = shared.memory
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

    transformers 5.24 renamed `past_key_values` to `cache` and accepts both names, so a call may use
    either.
    """
    for name in CACHE_NAMES:
        value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
        if value is not None:
            return value
    return None


def length_of(cache: Any) -> int:
    """Tokens in a cache; 0 for None."""
    return 0 if cache is None else int(cache.get_seq_length())


def is_static(cache: Any) -> bool:
    """Whether a cache, or a layer of it, has slots from the beginning."""
    return any(getattr(layer, "is_compileable", False) for layer in getattr(cache, "layers", ()))


def capacity_of(cache: Any) -> int | None:
    """Tokens that a static cache can hold; None if it grows or has sliding windows only."""
    sizes = [
        int(layer.max_cache_len)
        for layer in getattr(cache, "layers", ())
        if getattr(layer, "is_compileable", False)
        and hasattr(layer, "max_cache_len")
        and not getattr(layer, "is_sliding", False)
    ]
    return min(sizes, default=None)


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values in a transformers cache; 0 if it has none."""
    stored = [
        x
        for layer in getattr(cache, "layers", [])
        for x in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if isinstance(x, Tensor)
    ]
    return sum(x.numel() * x.element_size() for x in stored)
