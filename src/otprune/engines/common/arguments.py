"""The arguments of a module's method by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any


def named(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], method: str = "forward"
) -> dict[str, Any]:
    """The arguments of a module's method by name."""
    signature = _signature(getattr(type(module), method))
    found: dict[str, Any] = {}
    for name, value in list(signature.bind(module, *args, **kwargs).arguments.items())[1:]:
        more = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        found |= value if more else {name: value}
    return found


@lru_cache(maxsize=256)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)
