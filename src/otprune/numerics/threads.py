"""Small steps in one thread, large ones shared out; nobody's thread settings are changed.

torch splits every operation of some size among its threads, and each waits at its end for all of
them. On a busy machine that is a wait for a thread that is not running, and selection has hundreds
of such ends. So here the calling thread does everything itself, and only tasks that are worth it
are shared with a few helpers, which sleep when there is nothing to do. Nobody waits for a helper
that has not begun.

What a task is depends on the shape of the data and never on the number of threads. Hence neither do
the results, to the last bit.

How many threads an operation may have is a number that OpenMP and MKL hold *for each thread*
(`omp_set_num_threads`: OpenMP 5.2, section 18.2.1; `mkl_set_num_threads_local`). `single` sets that
of the calling thread and puts it back. `torch.set_num_threads` would not do: it also sets what
threads of the caller's get that start meanwhile.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")

# A library's symbols are looked for in those that it was linked with, too.
_LIBRARIES = ("libtorch_cpu.so", "libtorch_cpu.dylib")


class _Own(threading.local):
    """Of each thread: how many may work at the tasks that it shares out, itself included."""

    team = 1


_own = _Own()


@contextmanager
def single() -> Iterator[None]:
    """What this thread has torch do meanwhile is done by it alone, but for `spread`.

    Where torch's OpenMP is not found (Windows), threads stay as they are.
    """
    n = torch.get_num_threads()  # before all else: a thread's first call sets its number
    if n == 1 or _set_number() is None:
        yield
        return
    before, _own.team = _own.team, min(n, _processors())
    restore = _alone(n)
    try:
        yield
    finally:
        restore()
        _own.team = before


def spread(task: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """`[task(item) for item in items]`, by this thread and, inside `single`, its helpers.

    Whoever is free takes the next item. Tasks must not depend on each other; what they share out
    themselves they do alone. The first exception is raised, once nobody is at work any more.
    """
    given = list(items)
    helpers = min(_own.team, len(given)) - 1
    if helpers < 1:
        return [task(item) for item in given]
    made: dict[int, B] = {}
    places, lock = iter(range(len(given))), threading.Lock()
    inference = torch.is_inference_mode_enabled()

    def work() -> None:
        before, _own.team = _own.team, 1
        try:
            while True:
                with lock:
                    i = next(places, None)
                if i is None:
                    return
                made[i] = task(given[i])
        except BaseException:
            with lock:
                for _ in places:  # nobody starts another one
                    pass
            raise
        finally:
            _own.team = before

    def help_out() -> None:
        with single(), torch.inference_mode(inference), torch.no_grad():
            work()

    begun: list[Future[None]] = []
    try:
        for _ in range(helpers):
            begun.append(_helpers().submit(help_out))
    except RuntimeError:  # the interpreter is about to end, and starts no threads any more
        pass
    try:
        work()
    finally:
        # One that has not begun has nothing left to do; one that has is at its last task.
        working = [one for one in begun if not one.cancel()]
        failed = [error for one in working if (error := one.exception()) is not None]
    if failed:
        raise failed[0]
    return [made[i] for i in range(len(given))]


@contextmanager
def turn() -> Iterator[None]:
    """One thread at a time: for many small steps, between which threads would only fight for
    Python's lock."""
    with _turn():
        yield


def parts(n: int, size: int) -> list[slice]:
    """Of n things in a row, `size` at a time."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


@functools.cache
def _set_number() -> tuple[Callable[[int], object], Callable[[int], int] | None] | None:
    """`omp_set_num_threads`, and `mkl_set_num_threads_local` where torch has MKL."""
    for name in _LIBRARIES:
        path = Path(torch.__file__).parent / "lib" / name
        if path.exists():
            library = ctypes.CDLL(str(path))
            mkl = getattr(library, "MKL_Set_Num_Threads_Local", None)
            omp = getattr(library, "omp_set_num_threads", None)
            return None if omp is None else (omp, mkl)
    return None


def _alone(n: int) -> Callable[[], None]:
    """One thread for this thread's operations; gives what sets it back to n."""
    found = _set_number()
    assert found is not None
    omp, mkl = found
    omp(1)
    own = None if mkl is None else mkl(1)

    def restore() -> None:
        omp(n)
        if mkl is not None and own is not None:
            mkl(own)

    return restore


def _processors() -> int:
    """Those that this thread may run on, and with it the helpers that it starts."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="otprune")


@functools.cache
def _turn() -> threading.Lock:
    return threading.Lock()


def _forget() -> None:
    _helpers.cache_clear()
    _turn.cache_clear()


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_forget)
