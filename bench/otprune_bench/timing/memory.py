"""The peak memory of a call, counted by tensor storage; that of the process, by its pages."""

from __future__ import annotations

import resource
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes of tensors that a call holds at once, beyond those that were there before.

    Weights and inputs do not count, nor what one operation allocates and frees inside itself. Not
    what the operating system sees: that depends on what the allocator keeps for later, and on
    everything that the process did before.
    """
    counter = _Counter()
    with counter:
        function()
    return counter.peak


def resident_bytes() -> int | None:
    """Memory that the process holds; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * resource.getpagesize()


class _Counter(TorchDispatchMode):
    """Counts the storages that operations make, from when they are made to when they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._known: weakref.WeakSet[UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # What comes in and is not known was there before the call.
        tree_map_only(Tensor, lambda x: self._known.add(x.untyped_storage()), (args, kwargs))
        out = func(*args, **kwargs)
        tree_map_only(Tensor, self._made, out)
        return out

    def _made(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self._now -= size
