"""All engines and workers of a server prune alike: each is asked when it starts.

A machine without otprune has vLLM's own model class, which takes the first k of an image's m
features as if they were the kept ones, and reports nothing. So

- an engine asks its workers as soon as their models are loaded, wherever they run (Ray, several
  nodes, processes of one machine);
- a front end reads in each engine's first message (data parallel) what that engine does. An engine
  without otprune does not say it.

Versions and settings have to be equal too, however they are written: workers of other nodes may
have a command line of their own.
"""

from __future__ import annotations

import functools
import socket
import sys
from collections.abc import Callable
from dataclasses import make_dataclass
from importlib import import_module
from typing import Any

from otprune.engines.vllm.checks import pruned
from otprune.engines.vllm.settings import Settings, engine_settings
from otprune.errors import UnsupportedError

_FIELD = "otprune"


def claim(settings: Settings) -> str:
    """What an engine or a worker says of itself: the version, and all settings with defaults."""
    from otprune import __version__

    return f"otprune {__version__} with {settings}"


def of_worker(worker: Any) -> tuple[str, str | None]:
    """Runs in a worker: who it is, and its claim; None where it has vLLM's own model class."""
    settings = getattr(worker.get_model(), "otprune", None)
    name = f"rank {worker.rank} on {socket.gethostname()}"
    return name, None if settings is None else claim(settings)


def check_workers(config: Any, ask: Callable[[Callable[[Any], Any]], list[Any]]) -> None:
    """Ask every worker of an engine.

    Args:
        config: the engine's `VllmConfig`.
        ask: runs a function of the worker in each, as `collective_rpc` does.

    Raises:
        UnsupportedError: one lacks otprune, or prunes otherwise.
    """
    given = pruned(config)
    if given is None:
        return
    wanted = claim(engine_settings(given))
    try:
        said = ask(of_worker)
    except Exception as cause:
        if "otprune" not in str(cause):  # a worker failed for a reason of its own
            raise
        raise UnsupportedError(
            f"a worker has no otprune, or another version of it: every machine needs {wanted} in "
            f"vLLM's environment ({cause})"
        ) from cause
    for name, has in said:
        _compare(name, has, wanted)


def check_engine(config: Any, name: str, has: str | None) -> None:
    """Compare the claim of an engine with the configuration of the front end that asks it.

    Raises:
        UnsupportedError: as `check_workers`.
    """
    given = pruned(config)
    if given is not None:
        _compare(name, has, claim(engine_settings(given)))


def _compare(name: str, has: str | None, wanted: str) -> None:
    if has is None:
        raise UnsupportedError(
            f"{name} does not prune: every machine needs {wanted} in vLLM's environment and on its "
            "command line, and VLLM_PLUGINS, where it is set, has to name otprune"
        )
    if has != wanted:
        raise UnsupportedError(
            f"{name} has {has}, and this machine has {wanted}: install one version and start all "
            "with the same settings"
        )


def install(imports: bool) -> None:
    """Let vLLM's executors, engines and front ends check. May be called twice.

    imports: import vLLM's modules where they are not yet; else a later call does the rest. Workers
        need none of them.
    """
    for module, name, method, wrap in (
        ("vllm.v1.executor.abstract", "Executor", "__init__", _executor),
        ("vllm.v1.engine.core", "EngineCoreProc", "_make_ready_response", _engine),
        ("vllm.v1.engine.core_client", "MPClient", "_apply_ready_response", _front_end),
    ):
        if imports or module in sys.modules:
            owner = getattr(import_module(module), name, None)  # None: it is being imported
            if owner is not None and not hasattr(getattr(owner, method), _FIELD):
                wrapped = functools.wraps(getattr(owner, method))(wrap(getattr(owner, method)))
                setattr(wrapped, _FIELD, True)
                setattr(owner, method, wrapped)


def _executor(init: Callable[..., None]) -> Callable[..., None]:
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        try:
            check_workers(self.vllm_config, self.collective_rpc)
        except UnsupportedError:
            self.shutdown()
            raise

    return checked


def _engine(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def tagged(self: Any) -> Any:
        response = make(self)
        given = pruned(self.vllm_config)
        if given is None:
            return response
        # A front end without otprune ignores a field that it does not know.
        ready = make_dataclass("Ready", [(_FIELD, str)], bases=(type(response),), kw_only=True)
        return ready(**vars(response), **{_FIELD: claim(engine_settings(given))})

    return tagged


def _front_end(apply: Callable[[Any, bytes], None]) -> Callable[[Any, bytes], None]:
    def checked(self: Any, payload: bytes) -> None:
        if payload:
            from msgspec import msgpack

            said = msgpack.decode(payload)
            name = f"the engine of data parallel rank {said['data_parallel_rank']}"
            check_engine(self.vllm_config, name, said.get(_FIELD))
        apply(self, payload)

    return checked
