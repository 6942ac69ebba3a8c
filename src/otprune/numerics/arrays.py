"""Tensors that the host may read, as numpy arrays, and the parts they are worked on in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otprune.numerics import threads

A = TypeVar("A")

# Numbers that are worked on at once on a CPU. Fewer would stay in a cache, but threads that take
# turns with Python's lock lose more than that gains.
_AT_ONCE = 2**20
# MKL's sums may depend on where in such a line an array begins.
LINE = 64


def host_readable(x: Tensor) -> bool:
    """Whether the host may look at what is in `x`: on a CPU, and not inside `torch.compile`."""
    return x.is_cpu and not torch.compiler.is_compiling()


def as_array(x: Tensor) -> NDArray[Any]:
    """A numpy array of the same values: the tensor is copied into it, nothing is read out."""
    array = np.empty(tuple(x.shape), str(x.dtype).removeprefix("torch."))
    torch.from_numpy(array).copy_(x)
    return array


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An empty array that begins where torch has its tensors begin, at a line of the cache."""
    size = int(np.prod(shape)) * dtype.itemsize
    room = np.empty(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(dtype).reshape(shape)


def by_tokens(task: Callable[[slice], A], x: Tensor) -> list[A]:
    """What a task makes of the tokens of `(m, d)` or `(B, m, d)` on a CPU, a few at a time."""
    m, d = x.shape[-2:]
    return threads.spread(task, threads.parts(m, -(-m // -(-m * d // _AT_ONCE))))
