"""Names of a function's parameters, read once: a signature takes longer than a small layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any


def parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    """Names of the parameters of a function; of a method, `self` may be among them."""
    # While a model is pruned its forward() is an object of that block, around the same function.
    inner = inspect.unwrap(function, stop=lambda f: hasattr(f, "__signature__"))
    return _names(getattr(inner, "__func__", inner))


@lru_cache(maxsize=256)
def _names(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
