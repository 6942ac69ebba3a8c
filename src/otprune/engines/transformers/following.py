"""Methods of a vision encoder or a language model, replaced for the calls of one context.

While somebody follows a module in any thread, some methods are replaced by functions that look up
the follower of the context. Calls of other threads, and calls without a follower, are unaffected;
afterwards nothing is left.
"""

from __future__ import annotations

import operator
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakKeyDictionary

PACK = "pack_image_features"  # of models that pack tiles into images in a method of its own
POOL = "apply_pooling"  # the same of models that pool the frames of a video


class Follower(Protocol):
    """What happens in place of the followed methods."""

    def call(
        self,
        module: Any,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """In place of `module.name(*args, **kwargs)`, which is `function(*args, **kwargs)`."""


class Following:
    """The follower of each context, for one kind of modules."""

    def __init__(self, name: str) -> None:
        self.follower: ContextVar[Follower | None] = ContextVar(name, default=None)
        self._lock = threading.RLock()
        self._users: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._replaced: WeakKeyDictionary[Any, list[tuple[Any, str]]] = WeakKeyDictionary()

    @contextmanager
    def by(
        self, follower: Follower | None, owner: Any = None, methods: Sequence[tuple[Any, str]] = ()
    ) -> Iterator[None]:
        """Inside, in this thread and context only, a follower gets the calls of some methods.

        Args:
            follower: gets the calls; None for nobody, that of an outer call included.
            owner: the module whose methods, or whose submodules' methods, are followed.
            methods: modules and names of their methods.
        """
        if follower is not None:
            self._acquire(owner, methods)
        token = self.follower.set(follower)
        try:
            yield
        finally:
            if follower is not None:
                self._release(owner)
            self.follower.reset(token)

    def _acquire(self, owner: Any, methods: Sequence[tuple[Any, str]]) -> None:
        with self._lock:
            self._users[owner] = self._users.get(owner, 0) + 1
            for module, name in methods:
                own = vars(module).get(name)
                if not isinstance(own, _Method):
                    setattr(module, name, _Method(self, module, name, own))
                    self._replaced.setdefault(owner, []).append((module, name))

    def _release(self, owner: Any) -> None:
        with self._lock:
            self._users[owner] -= 1
            if self._users[owner]:
                return
            del self._users[owner]
            for module, name in self._replaced.pop(owner, []):
                ours = vars(module).get(name)
                if isinstance(ours, _Method):  # other code may have replaced it: left alone
                    delattr(module, name)
                    if ours.own is not None:
                        setattr(module, name, ours.own)


_ENCODERS = Following("otprune_encoder_follower")


@contextmanager
def followed(model: Any, tower: Any, layers: list[Any], follower: Follower) -> Iterator[None]:
    """Inside, in this thread and context only, a follower gets the calls of a vision encoder.

    Args:
        model: the encoder's model, whose packing of tiles and pooling of frames are followed if it
            has them; or the encoder.
        tower: the encoder.
        layers: those of its layers that are followed.
        follower: gets their calls, as `forward`, `PACK` and `POOL`.
    """
    methods = [(x, "forward") for x in (tower, *layers)]
    base = getattr(model, "base_model", model)
    methods += [(base, name) for name in (PACK, POOL) if hasattr(type(base), name)]
    with _ENCODERS.by(follower, tower, methods):
        yield


class _Method:
    """A method of a module while it is followed in any thread.

    own: the instance attribute that it replaced, such as accelerate's; None if there was none.
    """

    def __init__(
        self, following: Following, module: Any, name: str, own: Callable[..., Any] | None
    ) -> None:
        self._following = following
        self.module = module
        self.name = name
        self.own = own

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        if self.own is not None:
            return self.own
        method: Callable[..., Any] = types.MethodType(
            getattr(type(self.module), self.name), self.module
        )
        return method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        follower = self._following.follower.get()
        if follower is None:
            return self.__wrapped__(*args, **kwargs)
        return follower.call(self.module, self.name, self.__wrapped__, args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # No follower applies to a copy or a saved model, so it can be loaded without otprune.
        if self.own is not None:
            return operator.getitem, ((self.own,), 0)
        return getattr, (self.module, self.name)
