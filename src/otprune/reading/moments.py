"""What sources of frames have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from otprune.errors import FrameError

if TYPE_CHECKING:
    from PIL.Image import Image

# A frame's time in seconds, and how to make its image, which may raise FrameError.
Moment = tuple[float, "Callable[[], Image]"]
Report = Callable[[FrameError], object]


class Source(Protocol):
    """Frames in the order of their times.

    live: whether frames come by the clock, taken or not.
    """

    live: bool

    def moments(self, report: Report) -> Iterator[Moment]:
        """The frames, once. Errors of single frames go to `report`; FrameError ends the source."""

    def close(self) -> None:
        """Free what is open; may be called twice, but not while the source is read."""


def thinned(moments: Iterator[Moment], every: float | None) -> Iterator[Moment]:
    """The first frame of each `every` seconds, counted from the first of all."""
    start, last = 0.0, -1
    for time, read in moments:
        if every is None:
            yield time, read
            continue
        if last < 0:
            start = time
        # Times are rounded in files: a frame at 0.499999 s is that of 0.5 s.
        now = math.floor((time - start) / every + 1e-3)
        if now > last:
            last = now
            yield time, read
