"""A limit of time on the cases of a bench: none starts that is not expected to end in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class SkipError(Exception):
    """Raised by a case that cannot run here; it says why. It is tried again at the next start."""


class Deadline:
    """Seconds left, and how long each case is expected to take.

    A case's declared seconds are multiplied by how much longer than declared the cases of its group
    took so far, never by less than 1. A group is what its key has before the first slash.

    Args:
        seconds: from now on, for all cases.
        expected: seconds of each case by key, declared.
        clock: in seconds.
    """

    def __init__(
        self,
        seconds: float,
        expected: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._expected, self._clock = expected, clock
        self._end = clock() + seconds
        self._spent: dict[str, tuple[float, float]] = {}  # by group: measured, declared

    def check(self, key: str) -> None:
        """Raise SkipError if the case is not expected to end in time."""
        measured, declared = self._spent.get(_group(key), (0.0, 0.0))
        pace = max(1.0, measured / declared) if declared else 1.0
        needed, left = self._expected[key] * pace, self._end - self._clock()
        if needed > left:
            raise SkipError(
                f"not started: expected to take {needed:.1f} s, {max(left, 0):.1f} s left"
            )

    def took(self, key: str, seconds: float) -> None:
        """Record what a case took."""
        measured, declared = self._spent.get(_group(key), (0.0, 0.0))
        self._spent[_group(key)] = measured + seconds, declared + self._expected[key]


def _group(key: str) -> str:
    return key.partition("/")[0]
