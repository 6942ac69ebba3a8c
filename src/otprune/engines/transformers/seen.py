"""What the vision encoder knows about its tokens: the cues that methods take from it.

During a call whose method uses such cues, the encoder is followed in this thread and context only.
Its output, and the queries and keys of one layer, are read as they pass by. No option of the model
is changed, so every attention implementation serves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from otprune.engines.common.arguments import named
from otprune.engines.common.grids import Layout
from otprune.engines.transformers.attention import watch_attention
from otprune.engines.transformers.following import PACK, POOL, followed
from otprune.engines.transformers.packing import Seen, packed, packed_origins, pooled
from otprune.engines.transformers.saliency import Part, parts_of, received
from otprune.engines.transformers.sources import Source, source_of
from otprune.errors import UnsupportedError
from otprune.selectors import Cues

_ATTENTION = frozenset({"saliency", "keys"})


@contextmanager
def seeing(model: Any, wanted: Collection[str], given: Mapping[str, Any]) -> Iterator[list[Seen]]:
    """Inside, in this thread and context only, the cues of a model's vision encoder are collected.

    Args:
        model: a supported model.
        wanted: names out of `SEEN`; nothing else is computed.
        given: the arguments of the model's call.

    Returns:
        A list to which every call of the encoder adds what it saw.

    Raises:
        UnsupportedError: the cues of this model cannot be read; says why.
    """
    eye = _Eye(source_of(model, wanted, given), frozenset(wanted))
    layers = [eye.source.layer] if _ATTENTION & eye.wanted else []
    with followed(model, eye.source.tower, layers, eye):
        yield eye.calls


@dataclass(eq=False)
class _Call:
    """A running call of an encoder: its arguments, and what its layer's attention was given."""

    arguments: Mapping[str, Any]
    attended: list[tuple[Tensor, Tensor, Any, Mapping[str, Any]]] = field(default_factory=list)


_CALL: ContextVar[_Call | None] = ContextVar("otprune_seen_call", default=None)


@dataclass(eq=False)
class _Eye:
    """Follows one encoder in one context."""

    source: Source
    wanted: frozenset[str]
    calls: list[Seen] = field(default_factory=list)

    def call(
        self,
        module: Any,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if name == PACK:
            return self._pack(module, function, args, kwargs)
        if name == POOL:
            if self.calls:
                self.calls[-1] = pooled(function, self.calls[-1])
            return function(*args, **kwargs)
        if module is self.source.tower:
            return self._tower(function, args, kwargs)
        call = _CALL.get()
        if call is None or module is not self.source.layer:
            return function(*args, **kwargs)
        return _watched(call, function, args, kwargs)

    def _pack(
        self,
        model: Any,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        given = named(model, args, kwargs, PACK)
        total = sum(x.shape[:-1].numel() for x in given["image_features"])
        if self.calls:
            seen = self.calls[-1]
            if sum(seen.sizes) != total:
                self.calls[-1] = replace(seen, images=[])
            elif (origins := packed_origins(function, given)) is not None:
                self.calls[-1] = replace(seen, origins=origins)
            else:
                self.calls[-1] = packed(type(model).__name__, function, given, seen)
        return function(*args, **kwargs)

    def _tower(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = _Call(named(self.source.tower, args, kwargs))
        token = _CALL.set(call)
        try:
            out = function(*args, **kwargs)
        finally:
            _CALL.reset(token)
        self.calls.append(self._seen(call, out))
        return out

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _seen(self, call: _Call, out: Any) -> Seen:
        source, last = self.source, out.last_hidden_state
        rows, n = last.shape[:-1] if last.ndim == 3 else (1, len(last))
        layout = source.row.layout(source.tower, call.arguments, (rows, n), source.side)
        flat: dict[str, Tensor] = {}
        lacking: dict[str, str] = {}
        if "encoded" in self.wanted:
            states = last if source.state is None else out.hidden_states[source.state]
            flat["encoded"] = states.detach().reshape(rows * n, -1)
        if _ATTENTION & self.wanted:
            try:
                parts = _parts(call, rows, n)
                if "keys" in self.wanted:
                    every = torch.cat([part.key for part in parts], dim=2)
                    flat["keys"] = every.transpose(1, 2).flatten(0, 1)
                if "saliency" in self.wanted:
                    flat["saliency"] = _saliency(parts, layout, rows, n)
            except UnsupportedError as error:
                missing = _ATTENTION & self.wanted - set(flat)
                lacking = dict.fromkeys(missing, f"{type(source.tower).__name__}: {error}")
        sets, sizes = [], []
        for i, (units, places) in enumerate(zip(layout.units, layout.places, strict=True)):
            cues = {name: _mean_of_blocks(x, units) for name, x in flat.items()}
            if "grid" in self.wanted:
                tile = torch.full((len(places), 1), i)
                cues["grid"] = torch.cat([tile, places], dim=1).to(last.device)
            row = int(units[0, 0]) // n if len(units) else -1
            ahead = max(0, len(_special(layout, row, n)) - source.dropped)
            sets.append(Cues(**{name: _added(x, ahead, name) for name, x in cues.items()}))
            sizes.append(ahead + len(units))
        return Seen(sets, sizes, lacking)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _watched(
    call: _Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A layer, and what its attention is given."""
    call.attended.clear()

    def watch(module: Any, query: Tensor, key: Tensor, mask: Any, given: Mapping[str, Any]) -> None:
        call.attended.append((query.detach(), key.detach(), mask, given))

    with watch_attention(watch):
        return function(*args, **kwargs)


def _parts(call: _Call, rows: int, n: int) -> list[Part]:
    """What the layer's attention was given, of sequences `(rows, n)`."""
    parts: list[Part] = []
    for given in call.attended:
        parts += parts_of(parts[-1].stop if parts else 0, *given)
    if not parts or parts[-1].stop != n or len(parts[0].key) != rows:
        raise UnsupportedError("it does not attend through transformers' attention interface alone")
    return parts


def _special(layout: Layout, row: int, n: int) -> Tensor:
    """`(s,)`: the special tokens of one sequence, counted in it."""
    return layout.special[layout.special // n == row] - row * n


def _saliency(parts: list[Part], layout: Layout, rows: int, n: int) -> Tensor:
    """`(rows * n,)` float32."""
    flat = parts[0].key.new_zeros(rows * n, dtype=torch.float32)
    for units in layout.units:
        if len(units):
            tokens = units.reshape(-1)
            row = int(tokens[0]) // n
            special = _special(layout, row, n)
            first = int(special[0]) if len(special) else None
            flat[tokens.to(flat.device)] = received(parts, row, tokens - row * n, first)
    return flat


def _mean_of_blocks(flat: Tensor, units: Tensor) -> Tensor:
    """`(U, ...)` float32: the mean over the tokens of each block."""
    rows = flat[units.to(flat.device)]
    return rows[:, 0].float() if units.shape[1] == 1 else rows.float().mean(dim=1)


def _added(cue: Tensor, number: int, name: str) -> Tensor:
    """The cue with rows in front, of tokens that show no part of the image."""
    fill = -1 if name == "grid" else 0
    return cue if not number else torch.cat([cue.new_full((number, *cue.shape[1:]), fill), cue])
