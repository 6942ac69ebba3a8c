"""What lmms-eval hands over as text and dictionaries, as otprune and `generate` take it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from otprune.errors import OTPruneError
from otprune.keep import Keep
from otprune.measures.mass import Mass, check_alpha, check_mass
from otprune.selectors import METHODS, Selector, recommended

# Where a task does not say.
MOST_NEW_TOKENS = 1024


def pruning(
    method: str,
    keep: Keep,
    merge: bool,
    mass: Mass | None,
    alpha: float,
    **settings: Any,
) -> dict[str, Any]:
    """The arguments of `otprune.prune`; mass None is "none".

    Raises:
        OTPruneError: as `make_selector`; `method=recommended` together with what it settles.
    """
    if not isinstance(merge, bool):
        raise OTPruneError(f"merge is {merge!r}: expected True or False")
    if method != "recommended":
        chosen = make_selector(method, keep, **settings)
        return {
            "selector": chosen,
            "merge": merge,
            "mass": check_mass(mass or "none"),
            "alpha": check_alpha(alpha),
        }
    if merge or mass not in (None, "none") or any(v is not None for v in settings.values()):
        raise OTPruneError(
            "method=recommended settles merge, mass and the method's settings: leave them out"
        )
    return dict(recommended(keep))


def make_selector(method: str, keep: Keep, **settings: Any) -> Selector:
    """The selector of that name; settings that are None are left to the method.

    Raises:
        OTPruneError: no such method, or a setting that it does not have, or a wrong value.
    """
    if method not in METHODS:
        raise OTPruneError(f"no method {method!r}: expected one of {', '.join(METHODS)}")
    known = {field.name for field in fields(METHODS[method])}
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given.keys() - known:
        raise OTPruneError(f"{name} has no meaning for method={method}: leave it out")
    return METHODS[method](keep, **given)


def decoding(wanted: dict[str, Any]) -> dict[str, Any]:
    """A task's generation settings as `generate` takes them; greedy has no temperature."""
    temperature = float(wanted.get("temperature") or 0)
    found: dict[str, Any] = {
        "max_new_tokens": int(wanted.get("max_new_tokens") or MOST_NEW_TOKENS),
        "num_beams": int(wanted.get("num_beams") or 1),
        "do_sample": temperature > 0,
        "temperature": temperature if temperature > 0 else None,
        "top_p": wanted.get("top_p") if temperature > 0 else None,
    }
    return found


def cut(text: str, until: str | list[str] | None) -> str:
    """The answer up to the first of the stop strings; an empty line stops nothing."""
    for stop in [until] if isinstance(until, str) else until or []:
        if stop.strip():
            text = text.split(stop)[0]
    return text.strip()
