"""A check that an argument is a selector, made when it is passed, not when it is first used."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from otprune.errors import OTPruneError
from otprune.selectors.base import Selector


def check_selector(given: Any) -> Selector:
    """The selector itself.

    Raises:
        OTPruneError: it is something else. For common mistakes (a ratio, a method's name, a class,
            a preset that was not unpacked, a StreamSelector) the message gives the right form.
    """
    if isinstance(given, Selector):
        return given
    raise OTPruneError(f"selector={_shown(given)} is no selector: {_advice(given)}")


def _advice(given: Any) -> str:
    if inspect.isclass(given) and issubclass(given, Selector):
        return f"make one of the class, like {given.__name__}(keep=0.1)"
    if isinstance(given, str):
        # Looked up at call time, so that the user's own methods are found too.
        found = [
            cls for cls in _subclasses(Selector) if getattr(cls, "name", None) == given.lower()
        ]
        name = found[0].__name__ if found else "OTPrune"
        return f"expected an instance of a method's class, like otprune.{name}(keep=0.1)"
    if isinstance(given, Real) and not isinstance(given, bool):
        return f"name the method that keeps so many, like otprune.OTPrune(keep={given})"
    if isinstance(given, Mapping) and "selector" in given:
        return "it holds several arguments, unpack it: prune(model, **otprune.recommended(0.1))"
    if hasattr(given, "push"):
        return "it is for frames that come one by one; otprune.OTPrune(keep=0.1) is one for models"
    if hasattr(given, "forward"):
        return "it looks like a model; the order is prune(model, selector)"
    return "expected an instance of otprune.Selector, like otprune.OTPrune(keep=0.1)"


def _subclasses(of: Any) -> Iterator[Any]:
    for cls in of.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _shown(given: Any) -> str:
    """Short: the repr of a model is pages long."""
    if isinstance(given, (str, Real)) or given is None:
        return repr(given) if len(repr(given)) <= 60 else f"a {type(given).__name__}"
    if inspect.isclass(given):
        return f"the class {given.__name__}"
    return f"a {type(given).__name__}"
