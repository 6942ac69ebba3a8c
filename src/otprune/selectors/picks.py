"""What a method has picked: k distinct tokens of each set, or a refusal that says what else."""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.errors import SelectorError
from otprune.numerics.arrays import as_array

_OURS = __name__.partition(".")[0]


def check_picks(method: type, order: Tensor, batch: int, m: int, k: int) -> Tensor:
    """`order` itself, if it is `(batch, k)` int64 and its rows hold distinct places among m.

    Shape and dtype are always looked at. Values are in a CPU's memory; on a device the host would
    have to wait for them, and does so only for methods that are not otprune's own, whose picks are
    distinct by construction. Inside `torch.compile`, and while a CUDA graph is captured, nothing
    can be looked at.

    Raises:
        SelectorError: it is not so.
    """
    name = method.__name__
    if not isinstance(order, Tensor) or order.dtype != torch.int64 or order.shape != (batch, k):
        raise SelectorError(f"{name} picked {_shown(order)}: expected int64 of shape {(batch, k)}")
    if torch.compiler.is_compiling() or (
        order.is_cuda and torch.cuda.is_current_stream_capturing()
    ):
        return order
    own = method.__module__.partition(".")[0] == _OURS
    if order.is_meta or (own and not order.is_cpu):
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
    """Indices, `(k,)`, are strictly ascending places among m. The host waits for them.

    They are where they come from `Selector.select` or `reduce`; a subclass may have its own.

    Raises:
        SelectorError: they are not.
    """
    steps = torch.cat([indices.new_tensor([-1]), indices, indices.new_tensor([m])]).diff()
    if not bool((steps > 0).all()):
        raise SelectorError(
            f"{method.__name__} returned indices that are not strictly ascending places of a set "
            f"of {m} tokens: a selector must"
        )


def _shown(order: object) -> str:
    if isinstance(order, Tensor):
        return f"{order.dtype} of shape {tuple(order.shape)}"
    return f"a {type(order).__name__}"
