"""One way to read all sources of frames."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from otprune.errors import FrameError, MissingDependencyError, OTPruneError
from otprune.reading.moments import Moment, Source, thinned
from otprune.reading.newest import Newest

if TYPE_CHECKING:
    from PIL.Image import Image


def frames(
    source: str | Path | int,
    every: float | None = None,
    *,
    fps: float | None = None,
    on_broken: Callable[[FrameError], object] | None = None,
) -> Frames:
    """The frames of a video, a folder of images, a camera or a network stream.

        for time, image in otprune.frames("clip.mp4", every=0.5):
            ...

    A frame that cannot be read is passed to `on_broken`, and the next one follows. A camera or a
    network stream is never behind: while the caller works, a thread reads on and keeps the newest
    frame alone; `dropped` counts the others. Of a file every frame counts.

    Args:
        source: the path of a video or of an image; a folder of images, or a pattern with `*`, read
            in natural order (2 before 10); the number of a camera; or a URL (rtsp, http, ...).
        every: the first frame of every so many seconds; the others are passed over. None: all.
        fps: frames a second of a folder, a pattern or an image; None is 1. A video has its own.
        on_broken: is called with each frame's error, in the caller's thread. None: only counted,
            in `broken`.

    Returns:
        An iterator of `(time, image)`: seconds since the first frame, of a live source by the
        clock, and an RGB `PIL.Image.Image`, turned as the file says. It is a context manager, and
        closes itself at the end, or when the caller has no reference to it any more.

    Raises:
        OTPruneError: the source cannot be opened, or an argument is wrong; from the iterator: the
            source ended by an error.
        MissingDependencyError: PyAV is not installed, which all but images need, or Pillow.
    """
    try:
        from otprune.reading import images, places
    except ImportError as cause:
        raise MissingDependencyError(
            f"otprune.frames needs Pillow, which cannot be imported ({cause}): "
            "pip install 'otprune[video]'"
        ) from cause
    every = _seconds("every", every)
    fps = _seconds("fps", fps)
    found: Source
    if isinstance(source, bool) or not isinstance(source, (str, Path, Integral)):
        raise OTPruneError(
            f"source={source!r}: expected a path, a URL, or the number of a camera, such as 0"
        )
    files = None if isinstance(source, Integral) else images.files_of(source)
    if files is not None:
        found = images.Images(files, fps or 1.0)
    elif fps is not None:
        raise OTPruneError(f"fps={fps:g} belongs to a folder of images: {source} has its own times")
    else:
        found = places.opened(source if isinstance(source, (str, Path)) else int(source))
    return Frames(found, every, on_broken)


class Frames:
    """An iterator of `(time, image)`; see `frames`.

    Attributes:
        live: whether it is a camera or a stream, which does not wait for the caller.
        broken: number of frames so far that could not be read.
        on_broken: is called with the error of each; see `frames`.
    """

    def __init__(
        self,
        source: Source,
        every: float | None = None,
        on_broken: Callable[[FrameError], object] | None = None,
    ) -> None:
        self.live = source.live
        self.broken = 0
        self.on_broken = on_broken
        self._errors: deque[FrameError] = deque()
        self._source: Source | Newest = source
        # The reading thread must not hold this object, which ends it when it is gone.
        moments = source.moments(self._errors.append)
        self._moments: Iterator[Moment]
        if source.live:
            self._moments = self._source = Newest(source, moments, every)
        else:
            self._moments = thinned(moments, every)

    @property
    def dropped(self) -> int:
        """Number of frames of a live source that came while the caller was at work."""
        return self._source.dropped if isinstance(self._source, Newest) else 0

    def __iter__(self) -> Frames:
        return self

    def __next__(self) -> tuple[float, Image]:
        try:
            for time, read in self._moments:
                self._report()
                try:
                    image = read()
                except FrameError as error:
                    self._errors.append(error)
                    self._report()
                    continue
                return time, image
            self._report()
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    def _report(self) -> None:
        while self._errors:
            error = self._errors.popleft()
            self.broken += 1
            if self.on_broken is not None:
                self.on_broken(error)

    def close(self) -> None:
        """Close the source; the iterator is then at its end."""
        self._moments = iter(())
        self._source.close()

    def __enter__(self) -> Frames:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_source"):
            self.close()


def _seconds(name: str, given: float | None) -> float | None:
    if given is None:
        return None
    if (
        isinstance(given, bool)
        or not isinstance(given, Real)
        or not math.isfinite(given)
        or given <= 0
    ):
        raise OTPruneError(f"{name}={given!r}: expected a number more than 0")
    return float(given)
