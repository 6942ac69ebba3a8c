"""Small operations run in one thread, large ones in several; no setting of the caller changes.

torch splits every operation of some size among its threads, and waits at its end for all of them.
On a busy machine that is a wait for a thread that is not scheduled, and selection has hundreds of
such operations. So here the calling thread works alone, and only tasks that are large enough are
shared with helper threads, which sleep when there is nothing to do. The caller never waits for a
helper that has not started.

How work is cut into tasks depends on the shape of the data and never on the number of threads.
Hence the results do not depend on that number either, to the last bit.

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
    """Per thread: how many threads may work on the tasks that it shares, itself included."""

    team = 1


_own = _Own()


@contextmanager
def single() -> Iterator[None]:
    """Run this thread's torch operations in this thread alone, except for `spread`.

    Where torch's OpenMP library is not found (Windows), nothing changes.
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
    """`[task(item) for item in items]`, by this thread and, inside `single`, helper threads.

    Whichever thread is free takes the next item. Tasks must not depend on each other; a `spread`
    inside a task runs in that task's thread. The first exception is raised once all have stopped.
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
                for _ in places:  # no thread starts another one
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
    """One thread at a time: for long runs of small operations.

    In two threads at once they would spend their time handing over Python's interpreter lock.
    """
    with _turn():
        yield


@contextmanager
def between_turns() -> Iterator[None]:
    """Inside `turn`: leave it to other threads, for an operation that needs no interpreter."""
    _turn().release()
    try:
        yield
    finally:
        _turn().acquire()


def parts(n: int, size: int) -> list[slice]:
    """Slices that cut n items into parts of `size`."""
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
    """Set this thread's operations to one thread; returns what sets them back to n."""
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
    """Number of processors that this thread, and helpers that it starts, may run on."""
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
