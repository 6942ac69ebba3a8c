"""Tensors that the host can read: as numpy arrays, and in parts of a size that suits threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otprune.numerics import threads

A = TypeVar("A")

# Elements of a part. Smaller ones would stay in a processor's cache, but handing Python's
# interpreter lock from thread to thread costs more than that gains.
_AT_ONCE = 2**20
# Bytes. MKL's sums may depend on where in such a line an array begins.
LINE = 64


def host_readable(x: Tensor) -> bool:
    """Whether the host may look at what is in `x`: on a CPU, and not inside `torch.compile`."""
    return x.is_cpu and not torch.compiler.is_compiling()


def as_array(x: Tensor) -> NDArray[Any]:
    """A copy as a numpy array. torch writes into it, so that no value is read through Python."""
    array = np.empty(tuple(x.shape), str(x.dtype).removeprefix("torch."))
    torch.from_numpy(array).copy_(x)
    return array


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An empty array that begins at a cache line, as torch's tensors do."""
    size = int(np.prod(shape)) * dtype.itemsize
    buffer = np.empty(size + LINE, np.uint8)
    start = -buffer.ctypes.data % LINE
    return buffer[start : start + size].view(dtype).reshape(shape)


def by_tokens(task: Callable[[slice], A], x: Tensor) -> list[A]:
    """Results of a task on parts of the tokens of `(m, d)` or `(B, m, d)`, on a CPU."""
    m, d = x.shape[-2:]
    return threads.spread(task, threads.parts(m, -(-m // -(-m * d // _AT_ONCE))))
