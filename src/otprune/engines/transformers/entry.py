"""The replacements of a model's generate() and forward(), and which settings apply to a call.

While pruning is active for a model in any thread, the instance attributes `generate` and `forward`
are `Entry` objects. They look up the settings that apply to a call and run it pruned or not. An
entry holds its model as an attribute, so a copy of the model gets entries for the copy. A call
without settings runs unchanged.
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

from otprune.engines.transformers import calls, policy
from otprune.engines.transformers.heads import is_policy
from otprune.engines.transformers.run import Run
from otprune.engines.transformers.settings import Settings
from otprune.errors import OTPruneError

_ENABLED = "_otprune_enabled"  # an attribute of the model, so that copies and saved models have it
_ARGUMENT = "otprune"


@dataclass(eq=False)
class Active:
    """Settings for calls of one model, and the run that reports on those calls.

    settings: None if only calls with their own settings are pruned.
    """

    settings: Settings | None
    run: Run


@dataclass(eq=False)
class Block:
    """A with block that is being executed. It applies in its own thread and context."""

    model: Any
    active: Active
    open: bool = True


_BLOCKS: ContextVar[tuple[Block, ...]] = ContextVar("otprune_blocks", default=())
_lock = threading.RLock()
_users: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def begin(block: Block) -> None:
    """Enter a block."""
    _acquire(block.model)
    _BLOCKS.set((*(other for other in _BLOCKS.get() if other.open), block))


def end(block: Block) -> None:
    """Leave a block. This may be called in another context than `begin`."""
    if not block.open:
        return
    block.open = False
    _BLOCKS.set(tuple(other for other in _BLOCKS.get() if other.open))
    model, block.model = block.model, None  # other contexts may keep a reference to the block
    _release(model)


def enable(model: Any, active: Active) -> None:
    """Apply settings to calls of a model in all threads, until `disable`."""
    with _lock:
        setattr(model, _ENABLED, active)
        _install(model)


def disable(model: Any) -> None:
    """End what `enable` began."""
    with _lock:
        vars(model).pop(_ENABLED, None)
        _remove_if_unused(model)


def enabled(model: Any) -> bool:
    """Whether a model has been enabled."""
    return _ENABLED in vars(model)


@contextmanager
def _in_use(model: Any) -> Iterator[None]:
    """Keep the entries installed during a call, even if a block ends or `disable` is called."""
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
    for name in _names(model):
        if not isinstance(vars(model).get(name), Entry):
            setattr(model, name, Entry(model, name, vars(model).get(name)))


def _remove_if_unused(model: Any) -> None:
    if model in _users or enabled(model):
        return
    for name in _names(model):
        entry = vars(model).get(name)
        if isinstance(entry, Entry):  # other code may have replaced or wrapped it: left alone
            delattr(model, name)
            if entry.own is not None:
                setattr(model, name, entry.own)


def _names(model: Any) -> list[str]:
    """The methods that are replaced: those of these that the class has."""
    names = ("forward", "sample_actions") if is_policy(type(model)) else ("generate", "forward")
    return [name for name in names if hasattr(type(model), name)]


def _active_for(model: Any) -> Active | None:
    """What applies to a call in the current context if it has no `otprune` argument."""
    for block in reversed(_BLOCKS.get()):
        if block.model is model and block.open:
            return block.active
    active: Active | None = vars(model).get(_ENABLED)
    return active


def _from_argument(given: Any) -> Active:
    """What the `otprune` argument of a call asks for: settings, the run of a block, or None."""
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

    own: the instance attribute that the entry replaced, such as accelerate's hook; None if there
        was none, and the method of the class is called.
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
        """The model's own generate() or forward()."""
        if self.own is not None:
            return self.own(*args, **kwargs)
        return getattr(type(self.model), self.name)(self.model, *args, **kwargs)

    # A compiled graph cannot look up which settings apply. The functions called may be compiled.
    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _ARGUMENT not in kwargs:
            return self._call(args, kwargs)
        block = Block(self.model, _from_argument(kwargs.pop(_ARGUMENT)))
        begin(block)
        try:
            return self._call(args, kwargs, settled=True)
        finally:
            end(block)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], settled: bool = False) -> Any:
        model, function = self.model, self._inner
        installed = vars(model).get(self.name)
        if isinstance(installed, Entry) and installed is not self:
            # Other code wrapped this entry, and the wrapper is wrapped in the installed entry.
            return function(*args, **kwargs)
        arguments = _by_name(self.__wrapped__, args, kwargs) if args else kwargs
        if self.name == "forward" and not settled:
            generating = calls.owner_of(model, arguments)
            if generating is not None:
                return generating.call(function, arguments)
        active = _active_for(model)
        if active is None or active.settings is None:
            calls.check_unpruned_cache(arguments)
            if is_policy(type(model)):
                return function(**arguments)
            plain = calls.plain_forward if self.name == "forward" else calls.plain_generate
            return plain(model, function, arguments)
        pruned = calls.forward if self.name == "forward" else calls.generate
        if is_policy(type(model)):
            pruned = policy.forward if self.name == "forward" else policy.sample_actions
        with _in_use(model):
            return pruned(model, function, arguments, active.settings, active.run)

    def __reduce__(self) -> tuple[Any, ...]:
        if enabled(self.model):
            return Entry, (self.model, self.name, self.own)
        # No block applies to a copy or a saved model, so it can be loaded without otprune.
        if self.own is not None:
            return operator.getitem, ((self.own,), 0)
        return getattr, (self.model, self.name)


def unpruned(model: Any, name: str, arguments: dict[str, Any]) -> Any:
    """A call of a model's `generate` or `forward` that is not pruned, whatever applies to others.

    A `forward` is called through the model, so that its hooks run.
    """
    if isinstance(vars(model).get(name), Entry):
        arguments = arguments | {_ARGUMENT: None}
    return model(**arguments) if name == "forward" else getattr(model, name)(**arguments)


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """All arguments by name; positional ones get their names from the signature."""
    names = list(inspect.signature(function).parameters)
    return dict(zip(names, args, strict=False)) | kwargs
