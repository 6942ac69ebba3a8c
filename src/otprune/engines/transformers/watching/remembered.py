"""What a session remembers: cached keys and values of text and kept tokens, as an immutable value.

Seeing a frame makes a new value from the old one; tensors are never changed in place. So a question
can be answered from one value while another thread already makes the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from otprune.engines.transformers.watching.places import Place, Segment


@dataclass(frozen=True, eq=False)
class Remembered:
    """The columns of a cache of one sequence, in the order in which they came.

    keys, values: `(1, heads, n, d)` of each layer.
    ids: `(n,)` int64; visual tokens have the placeholder's id.
    positions: `(axes, n)` int64.
    offsets: `(axes, n)` int64, positions from the start of each column's segment.
    segment: `(n,)` int64, the number of its segment.
    source: `(n,)` int64, which token of its frame a visual token is; -1 for text.
    features: `(v, d)`, the visual tokens as the language model got them; `(0, 0)` if not needed.
    segments: those that have columns, and text that opened the session, by number.
    place: where the next tokens go.
    opening: number of columns of the text that opened the session, which never leave.
    """

    keys: list[Tensor]
    values: list[Tensor]
    ids: Tensor
    positions: Tensor
    offsets: Tensor
    segment: Tensor
    source: Tensor
    features: Tensor
    segments: dict[int, Segment]
    place: Place
    opening: int = 0

    @classmethod
    def nothing(cls, axes: int, device: torch.device) -> Remembered:
        """Before the first column."""
        whole = {"dtype": torch.int64, "device": device}
        none = torch.empty(0, **whole)  # type: ignore[call-overload]
        rows = torch.empty((axes, 0), **whole)  # type: ignore[call-overload]
        empty = torch.empty((0, 0), device=device)
        return cls([], [], none, rows, rows, none, none, empty, {}, Place())

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def visual(self) -> Tensor:
        """`(n,)` bool, the visual tokens."""
        return self.source >= 0

    def cache(self) -> DynamicCache:
        """A cache with these columns. Its tensors are shared; extending it makes new ones."""
        made = DynamicCache()
        for i, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            made.update(key, value, i)
        return made

    def extended(
        self, cache: Any, segment: Segment, ids: Tensor, offsets: Tensor, source: Tensor
    ) -> Remembered:
        """With a segment behind it.

        Args:
            cache: these columns, followed by the segment's.
            segment: the segment.
            ids, source: `(k,)`; offsets: `(axes, k)`.
        """
        positions, place = self.place.put(segment, offsets)
        number = torch.full_like(ids, segment.number)
        return replace(
            self,
            keys=[layer.keys for layer in cache.layers],
            values=[layer.values for layer in cache.layers],
            ids=torch.cat([self.ids, ids]),
            positions=torch.cat([self.positions, positions], dim=-1),
            offsets=torch.cat([self.offsets, offsets], dim=-1),
            segment=torch.cat([self.segment, number]),
            source=torch.cat([self.source, source]),
            segments=self.segments | {segment.number: segment},
            place=place,
        )

    def without(self, gone: Tensor) -> Remembered:
        """Without some visual tokens, and without the text that belongs to them.

        The text of a frame leaves with its last visual token. Other text leaves once no older
        visual token is left. What opened the session stays.

        Args:
            gone: `(n,)` bool, visual tokens.
        """
        left = self.visual & ~gone
        stays = set(self.segment[left].tolist())
        oldest = min(stays, default=None)
        keep = left.clone()
        for number, segment in self.segments.items():
            there = (self.segment == number) & ~self.visual
            text = segment.frame < 0
            if (oldest is not None and number > oldest) if text else number in stays:
                keep |= there
        keep[: self.opening] = True
        columns = keep.nonzero()[:, 0]
        numbers = set(self.segment[columns].tolist())
        visual = self.visual
        return replace(
            self,
            keys=[x.index_select(2, columns.to(x.device)) for x in self.keys],
            values=[x.index_select(2, columns.to(x.device)) for x in self.values],
            ids=self.ids[columns],
            positions=self.positions[:, columns],
            offsets=self.offsets[:, columns],
            segment=self.segment[columns],
            source=self.source[columns],
            features=self.features[keep[visual]] if len(self.features) else self.features,
            segments={n: one for n, one in self.segments.items() if n in numbers},
        )

    def replaced(self, tokens: int, indices: Tensor) -> Tensor:
        """`(n,)` bool, the visual tokens whose places a new frame fills.

        Args:
            tokens: of the new frame; frames of another number have no place in common with it.
            indices: `(k,)`, its kept ones.
        """
        others = [n for n, one in self.segments.items() if one.frame >= 0 and one.tokens != tokens]
        other = torch.isin(self.segment, torch.tensor(others, device=self.segment.device))
        return self.visual & (other | torch.isin(self.source, indices.to(self.source.device)))

    def moved(self, turn: Callable[[list[Tensor], Tensor], list[Tensor]]) -> Remembered:
        """Laid out anew, as if the session had begun with what it remembers.

        Args:
            turn: moves keys to other positions, see `KeyRotation`.
        """
        place = Place()
        found = []
        for number, segment in self.segments.items():
            here = self.segment == number
            positions, place = place.put(segment, self.offsets[:, here])
            found.append(positions)
        positions = torch.cat(found, dim=-1) if found else self.positions
        shift = positions - self.positions
        return replace(self, keys=turn(self.keys, shift), positions=positions, place=place)

    # -- state -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """All of it as tensors."""
        state = {f"keys.{i}": x for i, x in enumerate(self.keys)}
        state |= {f"values.{i}": x for i, x in enumerate(self.values)}
        state |= {name: getattr(self, name) for name in _TENSORS}
        none = -(2**62)
        table = [
            [
                one.number,
                one.frame,
                one.length,
                none if one.ticks is None else one.ticks,
                one.tokens,
            ]
            for one in self.segments.values()
        ]
        state["segments"] = torch.tensor(table, dtype=torch.int64).reshape(-1, 5)
        place = self.place
        base = none if place.base is None else place.base
        state["place"] = torch.tensor([place.next, base, place.origin, self.opening])
        return state

    @classmethod
    def of_state(cls, state: dict[str, Tensor], device: torch.device) -> Remembered:
        """What `state` was made of."""
        none = -(2**62)
        layers = sum(name.startswith("keys.") for name in state)
        rows = [
            Segment(number, frame, length, None if ticks == none else ticks, tokens)
            for number, frame, length, ticks, tokens in state["segments"].tolist()
        ]
        following, base, origin, opening = state["place"].tolist()
        return cls(
            keys=[state[f"keys.{i}"].to(device) for i in range(layers)],
            values=[state[f"values.{i}"].to(device) for i in range(layers)],
            segments={one.number: one for one in rows},
            place=Place(following, None if base == none else base, origin),
            opening=opening,
            **{name: state[name].to(device) for name in _TENSORS},
        )


_TENSORS = ("ids", "positions", "offsets", "segment", "source", "features")
