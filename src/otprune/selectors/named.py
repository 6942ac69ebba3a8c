"""Methods by name, and the arguments of `otprune.prune` from plain values.

The command line, lmms-eval and vLLM get a method's name and its settings as text, numbers and JSON.
All of them use this module, so they accept the same values and give the same errors. A method's
settings are its dataclass fields; a new method or field need not be listed here.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from otprune.errors import OTPruneError
from otprune.keep import Keep
from otprune.measures.mass import Distance, Mass, check_alpha, check_distance, check_mass
from otprune.selectors.preset import Pruning, recommended
from otprune.selectors.registry import METHODS

RECOMMENDED = (
    "recommended"  # stands for `recommended()`, which also sets merge, mass, alpha and distance
)


def settings_of(method: str) -> tuple[str, ...]:
    """Names of a method's own settings: its dataclass fields without `keep`.

    "recommended" has the share of the question.

    Raises:
        OTPruneError: there is no such method.
    """
    names = (*METHODS, RECOMMENDED)
    if not isinstance(method, str) or method not in names:
        raise OTPruneError(f"no method {method!r}: {near(method, names)}")
    if method == RECOMMENDED:
        return ("question",)
    return tuple(f.name for f in fields(METHODS[method]) if f.init and f.name != "keep")


def every_setting() -> tuple[str, ...]:
    """Names of the settings that at least one method has."""
    return tuple(dict.fromkeys(name for method in METHODS for name in settings_of(method)))


def by_name(
    method: str,
    keep: Keep,
    *,
    merge: bool | None = None,
    mass: Mass | None = None,
    alpha: float | None = None,
    distance: Distance | None = None,
    **settings: Any,
) -> Pruning:
    """The arguments of `otprune.prune`: `prune(model, **by_name("transport", 0.1, merge=True))`.

    Args:
        method: a key of `METHODS`, or "recommended" for what `recommended()` returns.
        keep: as for any selector.
        merge, mass, alpha, distance: as for `otprune.prune`; None is its default.
        settings: the method's own, by name (`settings_of`); None is the method's default.

    Raises:
        KeepError: `keep` is no ratio, number or rule.
        OTPruneError: there is no such method, the method has no such setting, a value is wrong,
            "recommended" is given with a setting that it fixes, or alpha without mass and distance.
    """
    own = settings_of(method)
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        owners = [other for other in METHODS if name in settings_of(other)]
        if not owners:
            raise OTPruneError(f"no method has a setting {name!r}: {near(name, every_setting())}")
        if name not in own and method != RECOMMENDED:
            raise OTPruneError(
                f"{name} is not a setting of method {method}: it belongs to {', '.join(owners)}"
            )
    if method == RECOMMENDED:
        heard = {name: given.pop(name) for name in own if name in given}
        settled = {"merge": merge, "mass": mass, "alpha": alpha, "distance": distance, **given}
        if excess := [name for name, value in settled.items() if value is not None]:
            raise OTPruneError(
                "method recommended settles merge, mass, alpha, distance and the method's own "
                "settings: "
                f"leave {', '.join(excess)} out, or name a method"
            )
        return recommended(keep, **heard)
    if merge is not None and not isinstance(merge, bool):
        raise OTPruneError(f"merge={merge!r}: expected True or False")
    distance = check_distance(False if distance is None else distance)
    mass = check_mass("none" if mass is None else mass)
    if alpha is not None and mass == "none" and not distance:
        raise OTPruneError(
            "alpha is the strength of mass and distance: add mass total or mass token, or "
            "distance, or leave alpha out"
        )
    return Pruning(
        selector=METHODS[method](keep, **given),
        merge=bool(merge),
        mass=mass,
        alpha=check_alpha(1.0 if alpha is None else alpha),
        distance=distance,
    )


def near(name: object, known: Sequence[str]) -> str:
    """Advice for an unknown name: the most similar known one, or all of them."""
    close = difflib.get_close_matches(str(name).lower(), known, n=1)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"
