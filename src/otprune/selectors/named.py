"""Methods by name, and the arguments of `otprune.prune` from plain values.

The command line, lmms-eval and vLLM get a method's name and its settings as text, numbers and JSON.
All of them use this module, so they accept the same values and give the same errors. A method's
settings are its dataclass fields; a new method or field need not be listed here.

A method of a user's own file is named by its class, "package.module:Class". To import a module is
to run it, so such names are accepted only with `own=True`: by the command line and lmms-eval, whose
user starts the process, and not by vLLM, whose names come with requests.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from otprune.errors import OTPruneError
from otprune.keep import Keep
from otprune.measures.mass import Distance, Mass, check_alpha, check_distance, check_mass
from otprune.selectors.base import Selector
from otprune.selectors.preset import Pruning, recommended
from otprune.selectors.registry import METHODS

RECOMMENDED = (
    "recommended"  # stands for `recommended()`, which also sets merge, mass, alpha and distance
)


def class_of(method: str, own: bool = False) -> type[Selector]:
    """The class of a method by its name.

    Args:
        method: a key of `METHODS` or, with `own`, "package.module:Class", a subclass of `Selector`.
        own: whether the caller may run any module that can be imported.

    Raises:
        OTPruneError: there is no such method, or the module, when imported, raises an error.
    """
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]
    if not isinstance(method, str) or ":" not in method:
        raise OTPruneError(f"no method {method!r}: {near(method, (*METHODS, RECOMMENDED))}")
    if not own:
        raise OTPruneError(
            f"method {method!r} names a class in a module, which is not imported here, since that "
            f"would run it: expected one of {', '.join((*METHODS, RECOMMENDED))}"
        )
    return _imported(method)


def _imported(method: str) -> type[Selector]:
    path, _, name = method.partition(":")
    parts = (*path.split("."), name)
    if path.endswith(".py") or not all(part.isidentifier() for part in parts):
        raise OTPruneError(
            f"method {method!r}: expected package.module:Class, such as my_methods:FarthestPoints"
        )
    try:
        module = importlib.import_module(path)
    except Exception as cause:  # whatever the module itself raises
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if missing and f"{path}.".startswith(f"{missing}."):
            raise OTPruneError(
                f"method {method!r}: there is no module {missing} among installed packages or on "
                "the path (PYTHONPATH)"
            ) from cause
        raise OTPruneError(
            f"method {method!r}: importing {path} failed with {type(cause).__name__}: {cause}"
        ) from cause
    found = getattr(module, name, None)
    if found is None:
        able = [n for n, value in vars(module).items() if _is_method(value)]
        advice = near(name, able) if able else "it has no subclass of otprune.Selector"
        raise OTPruneError(f"method {method!r}: {path} has no {name}: {advice}")
    if not _is_method(found):
        raise OTPruneError(
            f"method {method!r}: {name} is no subclass of otprune.Selector with a method pick"
        )
    made: type[Selector] = found
    return made


def _is_method(value: object) -> bool:
    is_selector = isinstance(value, type) and issubclass(value, Selector)
    return is_selector and not inspect.isabstract(value)


def name_of(selector: Selector) -> str:
    """The name of a selector's method, as `by_name` with `own` accepts it."""
    method = type(selector)
    name = getattr(method, "name", "")
    return name if METHODS.get(name) is method else f"{method.__module__}:{method.__qualname__}"


def settings_of(method: str, own: bool = False) -> tuple[str, ...]:
    """Names of a method's own settings: its dataclass fields without `keep`.

    "recommended" has the share of the question. Arguments and errors as for `class_of`.
    """
    if method == RECOMMENDED:
        return ("question",)
    return tuple(f.name for f in fields(class_of(method, own)) if f.init and f.name != "keep")


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
    own: bool = False,
    **settings: Any,
) -> Pruning:
    """The arguments of `otprune.prune`: `prune(model, **by_name("transport", 0.1, merge=True))`.

    Args:
        method: a key of `METHODS`, or "recommended" for what `recommended()` returns; with `own`
            also the class of a method of your own, "package.module:Class".
        keep: as for any selector.
        merge, mass, alpha, distance: as for `otprune.prune`; None is its default.
        own: whether such a class may be imported, which runs its module. Never for names that come
            from elsewhere, as in a request.
        settings: the method's own, by name (`settings_of`); None is the method's default.

    Raises:
        KeepError: `keep` is no ratio, number or rule.
        OTPruneError: there is no such method, the method has no such setting, a value is wrong,
            "recommended" is given with a setting that it fixes, or alpha without mass and distance.
    """
    names = settings_of(method, own)
    given = {name: value for name, value in settings.items() if value is not None}
    for name in (name for name in given if name not in names):
        owners = [other for other in METHODS if name in settings_of(other)]
        if not owners:
            known = dict.fromkeys((*names, *every_setting()))
            raise OTPruneError(f"no method has a setting {name!r}: {near(name, tuple(known))}")
        if method != RECOMMENDED:
            raise OTPruneError(
                f"{name} is not a setting of method {method}: it belongs to {', '.join(owners)}"
            )
    if method == RECOMMENDED:
        heard = {name: given.pop(name) for name in names if name in given}
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
        selector=_made(class_of(method, own), keep, given),
        merge=bool(merge),
        mass=mass,
        alpha=check_alpha(1.0 if alpha is None else alpha),
        distance=distance,
    )


def _made(method: type[Selector], keep: Keep, settings: dict[str, Any]) -> Selector:
    try:
        return method(keep, **settings)
    except TypeError as cause:
        if method in METHODS.values():
            raise
        # A class of the user's own may have settings without a default.
        raise OTPruneError(f"{method.__name__} cannot be made: {cause}") from cause


def near(name: object, known: Sequence[str]) -> str:
    """Advice for an unknown name: the most similar known one, or all of them."""
    lowered = {one.lower(): one for one in known}
    close = difflib.get_close_matches(str(name).lower(), lowered, n=1)
    return f"did you mean {lowered[close[0]]}?" if close else f"expected one of {', '.join(known)}"
