"""Calling a method's `pick`, and checking that it returns k distinct indices of each set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from otprune.errors import SelectorError
from otprune.numerics.arrays import as_array
from otprune.selectors.batches import Batch

if TYPE_CHECKING:
    from otprune.selectors.base import Selector

_OURS = __name__.partition(".")[0]


def picked(selector: Selector, batch: Batch, k: int) -> Tensor:
    """`selector.pick` on float32 tokens, `(B, k)` int64 in the order of picking, checked.

    Raises:
        SelectorError: the method broke the contract of `pick`.
    """
    tokens = batch.tokens
    # Under a caller's autocast, matrix products would silently run in half precision.
    given = tokens.float()
    handed = [given, *(x for x in batch.cues.given if x is not None)]
    before = [_version(x) for x in handed]
    with torch.autocast(tokens.device.type, enabled=False):
        order = selector.pick(given, k, batch.cues)
    if [_version(x) for x in handed] != before:
        raise SelectorError(
            f"{type(selector).__name__} changed the tokens or cues in place, which may be the "
            "caller's: clone them first"
        )
    return check_picks(type(selector), order, len(tokens), tokens.shape[1], k)


def check_picks(method: type, order: Tensor, batch: int, m: int, k: int) -> Tensor:
    """`order` itself, if it is `(batch, k)` int64 with distinct indices below m in each row.

    Shape and dtype are always checked, values only if `_readable`.

    Raises:
        SelectorError: with the requirement that is not met.
    """
    name = method.__name__
    if not isinstance(order, Tensor) or order.dtype != torch.int64 or order.shape != (batch, k):
        raise SelectorError(f"{name} picked {_shown(order)}: expected int64 of shape {(batch, k)}")
    if not _readable(method, order):
        return order
    places = as_array(order)
    places.sort(axis=1)
    if places[:, 0].min() < 0 or places[:, -1].max() >= m:
        raise SelectorError(
            f"{name} picked places from {places.min()} to {places.max()} of a set of {m} tokens: "
            f"expected 0 to {m - 1}"
        )
    if (places[:, 1:] == places[:, :-1]).any():
        raise SelectorError(f"{name} picked a token twice: expected {k} distinct places of {m}")
    return order


def check_kept(method: type, indices: Tensor, m: int) -> None:
    """Indices, `(k,)` or `(B, k)`, are strictly ascending places among m, where `_readable`.

    Those of `Selector.select` and `reduce` are; a subclass may have its own `reduce`.

    Raises:
        SelectorError: they are not.
    """
    if not _readable(method, indices):
        return
    ends = (
        indices.new_full((*indices.shape[:-1], 1), -1),
        indices.new_full((*indices.shape[:-1], 1), m),
    )
    steps = torch.cat([ends[0], indices, ends[1]], dim=-1).diff(dim=-1)
    if not bool((steps > 0).all()):
        raise SelectorError(
            f"{method.__name__} returned indices that are not strictly ascending places of a set "
            f"of {m} tokens: a selector must"
        )


def _readable(method: type, places: Tensor) -> bool:
    """Whether the values may be read on the host to check them.

    On a CPU always. On other devices reading synchronises, so it is done only for methods from
    outside this package; the package's own picks are correct by construction. Inside
    `torch.compile`, and while a CUDA graph is captured, values cannot be read.
    """
    if torch.compiler.is_compiling() or places.is_meta:
        return False
    if places.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return places.is_cpu or method.__module__.partition(".")[0] != _OURS


def _version(tokens: Tensor) -> int:
    """Changes with every change in place; 0 where torch does not count them."""
    if torch.compiler.is_compiling() or tokens.is_inference():
        return 0
    return tokens._version


def _shown(order: object) -> str:
    if isinstance(order, Tensor):
        return f"{order.dtype} of shape {tuple(order.shape)}"
    return f"a {type(order).__name__}"
