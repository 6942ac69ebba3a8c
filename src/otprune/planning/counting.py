"""Running a model that has no weights, to count the operations that it would do.

The model is built on torch's meta device, where tensors have shapes and no values. Its code also
asks for values: the grid of an image, where a window ends, which tiles are padding. Those come from
the processor, so they are computed for real, on the CPU, as long as no weight is involved.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, AutoModelForImageTextToText

# Models that pack images or windows into one sequence hand over where each ends, to what they take
# for flash attention by its name, and make no masks for an implementation without a mask function.
_ATTENTION = "otprune_flash_attention_counted"
_META, _CPU = torch.device("meta"), torch.device("cpu")


@dataclass(frozen=True)
class Attention:
    """One attention layer, for one call of it.

    Attributes:
        width: operations a pair of a query and a key costs: `2 heads (d_query + d_value)`, for the
            product of queries and keys and that of weights and values.
        pairs: pairs of queries and keys in this call, of whole rectangles: what a causal mask
            hides counts too, other images, other windows and what is outside a sliding window not.
        window: keys that a query sees at most; None for all.
    """

    width: int
    pairs: int
    window: int | None


@dataclass
class Counted:
    """What was counted in a block.

    Attributes:
        products: operations of matrix products and convolutions, attention apart.
        attention: the calls of attention layers, in order.
    """

    products: int = 0
    attention: list[Attention] = field(default_factory=list)

    @property
    def flops(self) -> int:
        """Floating-point operations; a multiplication and the addition after it are two."""
        return self.products + sum(one.width * one.pairs for one in self.attention)


_COUNTED: ContextVar[Counted | None] = ContextVar("otprune_counted", default=None)


def weightless(config: Any, dtype: torch.dtype) -> Any:
    """The model of a config on the meta device; the config is not changed."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(copy.deepcopy(config), dtype=dtype)
    for module in model.modules():
        own = getattr(module, "config", None)
        if own is not None:
            own._attn_implementation = _ATTENTION
            # Gathers each token's experts: the others are not in the count.
            own._experts_implementation = "batched_mm"
    return model.eval()


@contextmanager
def counting() -> Iterator[Counted]:
    """Inside, models made by `weightless` can be called, and their operations are counted."""
    counted = Counted()
    token = _COUNTED.set(counted)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter, _Constants(), _Shapes():  # type: ignore[no-untyped-call]
            yield counted
    finally:
        _COUNTED.reset(token)
    counted.products += int(counter.get_total_flops())


class _Shapes(TorchDispatchMode):
    """Operations that involve a tensor without values give shapes, all others are computed."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        if any(x.is_meta for x in tensors):
            if not all(x.is_meta for x in tensors):
                args, kwargs = tree_map(_without_values, (args, kwargs))
            if kwargs.get("device") is not None:
                kwargs = kwargs | {"device": _META}
        elif kwargs.get("device") == _META and _has_values(func, kwargs):
            kwargs = kwargs | {"device": _CPU}
        return func(*args, **kwargs)


class _Constants(TorchFunctionMode):
    """`torch.tensor` makes tensors with values: it would lose them before `_Shapes` sees it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None:
            kwargs = kwargs | {"device": _CPU}
        return func(*args, **kwargs)


def _without_values(x: Any) -> Any:
    return x.to(_META) if isinstance(x, Tensor) and not x.is_meta else x


def _has_values(func: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a new tensor is one that code may ask for values: indices, lengths, pixels."""
    name = func.overloadpacket.__name__
    dtype = kwargs.get("dtype")
    return name in ("arange", "_to_copy") or (dtype is not None and not dtype.is_floating_point)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: shapes of the result, and the pairs are counted."""
    batch, heads, queries, width = query.shape
    keys, values = key.shape[-2], value.shape[-1]
    if cu_seq_lens_q is None or cu_seq_lens_k is None:
        seen = keys if sliding_window is None else min(keys, int(sliding_window))
        pairs = batch * queries * seen
    else:
        pairs = int((_lengths(cu_seq_lens_q) * _lengths(cu_seq_lens_k)).sum())
    counted = _COUNTED.get()
    if counted is not None:
        window = None if sliding_window is None else int(sliding_window)
        counted.attention.append(Attention(2 * heads * (width + values), pairs, window))
    return query.new_empty(batch, queries, heads, values), None


def _lengths(borders: Tensor) -> Tensor:
    return borders.diff().long()


AttentionInterface.register(_ATTENTION, _attention)
