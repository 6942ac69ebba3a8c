"""The two doors of a model, generate() and forward(), and who stands behind them.

While a model is pruned anywhere, it has `generate` and `forward` of its own: objects that look up
what holds for the call at hand and pass it on. They hold the model as an attribute, so copies of a
model have entries that mean the copy. A call for which nothing holds goes through untouched.
"""

from __future__ import annotations

import inspect
import operator
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from otprune.engines.transformers import calls
from otprune.engines.transformers.run import Run
from otprune.engines.transformers.settings import Settings
from otprune.errors import OTPruneError

_NAMES = ("generate", "forward")
_ENABLED = "_otprune_enabled"  # on the model, so that it follows copies and saved models
_ARGUMENT = "otprune"


@dataclass(eq=False)
class Active:
    """Settings that hold for calls of one model, and the report about those calls.

    settings: None where only calls that bring their own are pruned.
    """

    settings: Settings | None
    run: Run


@dataclass(eq=False)
class Block:
    """A with block that is being executed: it holds in its own thread and context."""

    model: Any
    active: Active
    open: bool = True


_BLOCKS: ContextVar[tuple[Block, ...]] = ContextVar("otprune_blocks", default=())
_lock = threading.RLock()
_users: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def begin(block: Block) -> None:
    """Let a block hold from here on."""
    _acquire(block.model)
    _BLOCKS.set((*(other for other in _BLOCKS.get() if other.open), block))


def end(block: Block) -> None:
    """A block holds no more, in whatever context this is said."""
    if not block.open:
        return
    block.open = False
    _BLOCKS.set(tuple(other for other in _BLOCKS.get() if other.open))
    model, block.model = block.model, None  # other contexts may hold the block for long
    _release(model)


def enable(model: Any, active: Active) -> None:
    """Settings for everybody's calls of a model, until `disable`."""
    with _lock:
        setattr(model, _ENABLED, active)
        _install(model)


def disable(model: Any) -> None:
    """No settings for everybody's calls any more."""
    with _lock:
        vars(model).pop(_ENABLED, None)
        _remove_if_unused(model)


def enabled(model: Any) -> bool:
    """Whether a model has been enabled."""
    return _ENABLED in vars(model)


@contextmanager
def _in_use(model: Any) -> Iterator[None]:
    """A call's own hold: whoever leaves or disables meanwhile does not take its doors away."""
    _acquire(model)
    try:
        yield
    finally:
        _release(model)


def _acquire(model: Any) -> None:
    with _lock:
        _users[model] = _users.get(model, 0) + 1
        _install(model)


def _release(model: Any) -> None:
    with _lock:
        _users[model] -= 1
        if not _users[model]:
            del _users[model]
        _remove_if_unused(model)


def _install(model: Any) -> None:
    for name in _NAMES:
        if not isinstance(vars(model).get(name), Entry):
            setattr(model, name, Entry(model, name, vars(model).get(name)))


def _remove_if_unused(model: Any) -> None:
    if model in _users or enabled(model):
        return
    for name in _NAMES:
        entry = vars(model).get(name)
        if isinstance(entry, Entry):  # or somebody else's by now, with ours behind it, at rest
            delattr(model, name)
            if entry.own is not None:
                setattr(model, name, entry.own)


def _active_for(model: Any) -> Active | None:
    """What holds for a call here and now, if the call itself says nothing."""
    for block in reversed(_BLOCKS.get()):
        if block.model is model and block.open:
            return block.active
    active: Active | None = vars(model).get(_ENABLED)
    return active


def _from_argument(model: Any, given: Any) -> Active:
    """What a call says by itself: `otprune=settings`, the run of a block, or None for nothing."""
    if given is None or isinstance(given, Settings):
        return Active(given, Run())
    if isinstance(given, Run) and given.settings is not None:
        return Active(given.settings, given)
    raise OTPruneError(
        f"otprune={given!r}: expected otprune.Settings(...), the run of a with block, or None "
        "for a call that is not pruned"
    )


class Entry:
    """A model's `generate` or `forward`.

    own: what the model had in that place of its own, such as accelerate's hook; None for the
        method of its class.
    """

    def __init__(self, model: Any, name: str, own: Callable[..., Any] | None) -> None:
        self.model = model
        self.name = name
        self.own = own

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        if self.own is not None:
            return self.own
        method: Callable[..., Any] = types.MethodType(
            getattr(type(self.model), self.name), self.model
        )
        return method

    @property
    def __name__(self) -> str:
        return self.name

    def _inner(self, *args: Any, **kwargs: Any) -> Any:
        """What the model would do without us."""
        if self.own is not None:
            return self.own(*args, **kwargs)
        return getattr(type(self.model), self.name)(self.model, *args, **kwargs)

    # Which call it is, is not known to a graph; what it calls may be compiled.
    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _ARGUMENT not in kwargs:
            return self._call(args, kwargs)
        block = Block(self.model, _from_argument(self.model, kwargs.pop(_ARGUMENT)))
        begin(block)
        try:
            return self._call(args, kwargs, settled=True)
        finally:
            end(block)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], settled: bool = False) -> Any:
        model, function = self.model, self._inner
        door = vars(model).get(self.name)
        if isinstance(door, Entry) and door is not self:
            return function(*args, **kwargs)  # somebody wrapped us once, and is wrapped by now
        arguments = _by_name(self.__wrapped__, args, kwargs) if args else kwargs
        if self.name == "forward" and not settled:
            inside = calls.owner_of(model, arguments)
            if inside is not None:
                return inside.call(function, arguments)
        active = _active_for(model)
        if active is None or active.settings is None:
            calls.check_unpruned_cache(arguments)
            plain = calls.plain_forward if self.name == "forward" else calls.plain_generate
            return plain(model, function, arguments)
        pruned = calls.forward if self.name == "forward" else calls.generate
        with _in_use(model):
            return pruned(model, function, arguments, active.settings, active.run)

    def __reduce__(self) -> tuple[Any, ...]:
        if enabled(self.model):
            return Entry, (self.model, self.name, self.own)
        # A copy or a saved model is in no block, and needs nothing of ours to be loaded.
        if self.own is not None:
            return operator.getitem, ((self.own,), 0)
        return getattr, (self.model, self.name)


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by name, positional ones named as the signature does."""
    names = list(inspect.signature(function).parameters)
    return dict(zip(names, args, strict=False)) | kwargs
