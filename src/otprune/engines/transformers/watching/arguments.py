"""The arguments of a session, checked."""

from __future__ import annotations

from numbers import Real
from typing import Any, Literal

from otprune.errors import OTPruneError, UnsupportedError
from otprune.selectors import Selector
from otprune.streaming import StreamSelector

RATE = 16.0  # tokens a frame, without a selector
Forget = Literal["oldest", "replaced"] | Selector


def selector_of(given: Any) -> Any:
    """A selector of streams or of single frames; None is a `StreamSelector`."""
    if given is None:
        return StreamSelector(RATE)
    if isinstance(given, Selector) or (
        not isinstance(given, type)
        and all(
            callable(getattr(given, x, None)) for x in ("push", "state_dict", "load_state_dict")
        )
    ):
        check_needs(given, "StreamSelector, DTD or UniformStream")
        return given
    raise OTPruneError(
        f"selector={given!r}: expected otprune.StreamSelector(rate=16) or another selector of "
        "streams, or a Selector such as otprune.OTPrune(0.1)"
    )


def check_needs(selector: Any, others: str) -> None:
    """Refuse a selector that needs what a session does not provide."""
    if getattr(selector, "needs", ()):
        raise UnsupportedError(
            f"{type(selector).__name__} needs {', '.join(sorted(selector.needs))}, which a session "
            f"does not provide: use {others}"
        )


def share_of(name: str, given: object) -> float:
    """A share of something, less than all of it."""
    if isinstance(given, bool) or not isinstance(given, Real) or not 0 <= float(given) < 1:
        raise OTPruneError(f"{name}={given!r}: expected a number in [0, 1)")
    return float(given)


def memory_of(given: int | None, positions: int, reserve: int) -> int:
    """The largest number of visual tokens; None is 2048, or half of the model's positions."""
    if given is None:
        return min(2048, positions // 2)
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise OTPruneError(f"memory={given!r}: expected a number of tokens, 1 or more")
    if given > positions - reserve:
        raise OTPruneError(
            f"memory={given} does not fit the model's {positions} positions, of which {reserve} "
            f"are left for questions: at most {positions - reserve}"
        )
    return given


def forget_of(given: Any) -> Forget:
    """What leaves when the memory is full."""
    if isinstance(given, Selector):
        check_needs(given, "OTPrune(0.75)")
        return given
    if given not in ("oldest", "replaced"):
        raise OTPruneError(f"forget={given!r}: expected 'oldest', 'replaced' or a Selector")
    kind: Literal["oldest", "replaced"] = given
    return kind
