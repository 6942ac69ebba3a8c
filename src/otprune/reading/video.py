"""Videos by PyAV."""

from __future__ import annotations

import time as clocks
from collections.abc import Iterator
from functools import partial
from typing import Any

import av
import PIL.Image
from av.error import FFmpegError
from PIL.Image import Image

from otprune.errors import FrameError, OTPruneError
from otprune.reading.moments import Moment, Report

_TURNS = {
    90: PIL.Image.Transpose.ROTATE_90,
    180: PIL.Image.Transpose.ROTATE_180,
    270: PIL.Image.Transpose.ROTATE_270,
}


class Video:
    """The first video stream of what PyAV opens.

    Args:
        name: for messages.
        live: whether it is a camera or a stream; None: it is, if it has no length.
        given: arguments of `av.open`.

    Raises:
        OTPruneError: it cannot be opened, or has no video in it.
    """

    def __init__(self, name: str, live: bool | None = None, **given: Any) -> None:
        self._name = name
        try:
            self._container = av.open(**given)
        except (FFmpegError, OSError, ValueError) as cause:  # a format may be unknown to a build
            raise OTPruneError(f"{name} cannot be opened as a video: {_why(cause)}") from cause
        if not self._container.streams.video:
            self._container.close()
            raise OTPruneError(f"{name} has no video in it")
        self._stream = self._container.streams.video[0]
        self.live = self._container.duration is None if live is None else live
        # Threads that work on a frame each would delay a live one by as many frames.
        self._stream.thread_type = "SLICE" if self.live else "AUTO"

    def moments(self, report: Report) -> Iterator[Moment]:
        rate = float(self._stream.average_rate or 0) or 25.0  # for frames that have no time
        start: float | None = None
        last = -1 / rate
        for frame in self._frames(report):
            if self.live:
                time = clocks.monotonic()
            elif frame.time is not None:
                time = float(frame.time)
            else:
                time = (start or 0.0) + last + 1 / rate
            start = time if start is None else start
            last = max(last, time - start, 0.0)
            yield last, partial(_image, frame)

    def close(self) -> None:
        self._container.close()

    def _frames(self, report: Report) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        failed = False
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError as cause:
                said = f"{self._name} cannot be read any further: {_why(cause)}"
                if failed:
                    raise OTPruneError(said) from cause
                failed = True
                report(FrameError(f"{self._name}: a part of it cannot be read: {_why(cause)}"))
                packets = self._container.demux(self._stream)
                continue
            failed = False
            try:
                frames = packet.decode()
            except FFmpegError as cause:
                report(self._broken(packet, _why(cause)))
                continue
            for frame in frames:
                if frame.is_corrupt:
                    report(self._broken(frame, "it is damaged"))
                else:
                    yield frame

    def _broken(self, what: Any, why: str) -> FrameError:
        at = ""
        if what.pts is not None and what.time_base is not None:
            at = f" at {float(what.pts * what.time_base):.2f} s"
        return FrameError(f"{self._name}: the frame{at} cannot be decoded: {why}")


def _image(frame: Any) -> Image:
    """A decoded frame in RGB, upright."""
    try:
        image: Image = frame.to_image()
    except (FFmpegError, ValueError) as cause:
        raise FrameError(f"a frame cannot be converted to RGB: {_why(cause)}") from cause
    turn = _TURNS.get(round(frame.rotation) % 360)
    return image if turn is None else image.transpose(turn)


def _why(cause: BaseException) -> str:
    said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return " ".join(str(said).split())
