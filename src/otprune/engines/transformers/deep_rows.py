"""The short sequences of layers behind a cut: functions of tensors, and of a layer's arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from otprune.engines.transformers.layout import Layout
from otprune.engines.transformers.memory import CACHE_NAMES
from otprune.errors import UnsupportedError


@dataclass(eq=False)
class Short:
    """What the layers behind a cut get in one call of the language model.

    prompt: which tokens of the prompt these layers hold. Shorter rows are filled up in front, with
        tokens that masks hide.
    filled: whether there are such rows.
    past: number of tokens in the cache of the first layer. If there are any, all tokens of the call
        are new and kept, and only masks are shortened.
    new: number of tokens of the call.
    flash: whether attention gets masks as flash attention takes them, `(B, keys)`.
    """

    prompt: Layout
    filled: bool
    past: int
    new: int
    flash: bool
    _known: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    @cached_property
    def layout(self) -> Layout:
        """Which of the tokens so far, those in the cache and those of this call, they hold."""
        return self.prompt.extended(self.past + self.new)

    @cached_property
    def _place(self) -> Tensor:
        return _places(self.layout)

    def take(self, x: Tensor) -> Tensor:
        """`(..., B or 1, new, d)` to `(..., B, n', d)`."""
        if self.past:
            return x
        columns = self.layout.columns.clamp(min=0).to(x.device)
        x = x.expand(*x.shape[:-3], len(columns), *x.shape[-2:])
        columns = columns[..., None].expand(*x.shape[:-2], columns.shape[1], x.shape[-1])
        return x.gather(-2, columns)

    def give_back(self, x: Tensor, before: Tensor) -> Tensor:
        """`(B, n', d)` to `(B, new, d)`, with the rows of `before` at dropped tokens."""
        if self.past:
            return x
        place = self._place.to(x.device).unsqueeze(-1)
        return torch.where(place < 0, before, x.gather(1, place.clamp(min=0).expand_as(before)))

    def shared(self, value: Any, make: Any) -> Any:
        """`make(value)`, computed once for all layers that get the same object."""
        if id(value) not in self._known:
            # Keeping a reference to the object ensures that its id is not reused.
            self._known[id(value)] = value, make(value)
        return self._known[id(value)][1]


def _places(layout: Layout) -> Tensor:
    """`(B, width)`: for each token its place among the kept ones, -1 if it was dropped."""
    rows, n = layout.columns.shape
    place = torch.arange(n, device=layout.columns.device).expand(rows, n)
    # Filling is scattered into an extra column, which is cut off.
    found = layout.columns.new_full((rows, layout.width + 1), -1)
    found.scatter_(1, layout.columns.where(layout.columns >= 0, layout.width), place)
    return found[:, : layout.width]


def shortened(name: str, value: Any, short: Short, model: str) -> Any:
    """An argument of a layer, for the kept tokens.

    Raises:
        UnsupportedError: how to shorten it is not known.
    """
    if name == "hidden_states":
        return short.take(value)
    if name == "attention_mask":
        return short.shared(value, lambda mask: _mask(mask, short, model))
    if value is None or isinstance(value, (bool, int, float, str)) or name in CACHE_NAMES:
        return value
    if name == "position_embeddings" and isinstance(value, tuple):
        return short.shared(value, lambda some: tuple(_along(name, x, short, model) for x in some))
    per_token = name == "position_ids" or name.endswith("token_type_ids")
    if per_token and isinstance(value, Tensor) and value.ndim > 1:
        return short.shared(value, lambda x: _along(name, x[..., None], short, model)[..., 0])
    raise UnsupportedError(
        f"{model} hands {name} to its layers, and how to shorten it is not known: prune without "
        "layers="
    )


def _along(name: str, value: Tensor, short: Short, model: str) -> Tensor:
    if value.shape[-2] != short.new or value.shape[-3] not in (1, len(short.layout.columns)):
        raise UnsupportedError(
            f"{model} hands {name} of shape {tuple(value.shape)} to its layers, and how to shorten "
            "it is not known: prune without layers="
        )
    return short.take(value)


def _mask(given: Any, short: Short, model: str) -> Tensor | None:
    """A mask `(B or 1, h, new, keys)`, `(B, keys)` or None for the kept tokens."""
    layout, total = short.layout, short.past + short.new
    if given is None:
        if short.flash:
            # Without a mask, gaps in positions would be read as borders between packed sequences.
            return layout.valid.long() if short.filled or not short.past else None
        return _causal(short) if short.filled else None
    fits = isinstance(given, Tensor) and given.ndim in (2, 4) and given.shape[-1] == total
    if not fits or len(given) not in (1, len(layout.columns)):
        told = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise UnsupportedError(
            f"{model} hands a mask ({told}) to its layers, and how to shorten it is not known: use "
            "model.set_attn_implementation('sdpa'), or prune without layers="
        )
    mask: Tensor = given
    if mask.ndim == 2:
        return layout.take(mask, 0)
    columns = layout.columns.clamp(min=0).to(mask.device)[:, None]
    mask = mask.expand(columns.shape[0], *mask.shape[1:])
    if not short.past:
        mask = mask.gather(2, columns[..., None].expand(-1, mask.shape[1], -1, total))
    mask = mask.gather(3, columns[:, :, None].expand(-1, *mask.shape[1:3], -1))
    if not short.filled:
        return mask
    hidden = ~layout.valid.to(mask.device)[:, None, None]
    if mask.dtype == torch.bool:
        return mask & ~hidden | _itself(short, mask.device)
    lowest = torch.finfo(mask.dtype).min
    return mask.masked_fill(hidden, lowest).masked_fill(_itself(short, mask.device), 0)


def _causal(short: Short) -> Tensor:
    """`(B, 1, new or n', keys)` bool: every token sees the kept ones up to itself."""
    columns, valid = short.layout.columns, short.layout.valid[:, None, None]
    if short.past:
        at = torch.arange(short.past, short.past + short.new, device=columns.device)
        return valid & (columns[:, None, None] <= at[:, None])
    n = columns.shape[1]
    seen = torch.ones(n, n, dtype=torch.bool, device=columns.device).tril()
    return valid & seen | _itself(short, columns.device)


def _itself(short: Short, device: torch.device) -> Tensor:
    """`(B, 1, n', n')` bool: what fills up a row sees itself, so that its softmax has a term.

    `(1, 1, 1, 1)` False where all tokens of the call are kept.
    """
    if short.past:
        return torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)
    return torch.diag_embed(~short.layout.valid)[:, None].to(device)
