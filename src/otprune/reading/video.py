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
_SHORT = 1.0  # seconds that a file may be shorter than it says: rounding, and a frame's length


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
        given = shown = told = 0
        for packet in self._packets(report):
            given += packet.size > 0 and not packet.is_discard
            try:
                frames = packet.decode()
            except FFmpegError as cause:
                report(self._broken(packet, _why(cause)))
                told += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    report(self._broken(frame, "it is damaged"))
                    told += 1
                else:
                    shown += 1
                    yield frame
        # Decoders drop what refers to a damaged frame without a word. Where nothing is damaged,
        # packets without a frame are a codec's own affair.
        if told and given > shown + told:
            lost = given - shown - told
            report(FrameError(f"{self._name}: {lost} more frames depend on damaged ones"))

    def _packets(self, report: Report) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        failed: FFmpegError | None = None
        end = 0.0
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except FFmpegError as cause:
                if failed is not None:
                    said = f"{self._name} cannot be read any further: {_why(cause)}"
                    raise OTPruneError(said) from cause
                failed = cause
                packets = self._container.demux(self._stream)
                continue
            if failed is not None:
                report(FrameError(f"{self._name}: a part of it cannot be read: {_why(failed)}"))
                failed = None
            if packet.pts is not None:
                end = max(end, self._seconds(packet.pts + (packet.duration or 0)))
            yield packet
        if not self.live and self._stream.duration is not None:
            whole = self._seconds(self._stream.duration + (self._stream.start_time or 0))
            if whole - end > _SHORT:
                said = f"{self._name} ends at {end:.2f} s of {whole:.2f} s: the rest is missing"
                report(FrameError(said))

    def _seconds(self, ticks: int) -> float:
        return float(ticks * self._stream.time_base)

    def _broken(self, what: Any, why: str) -> FrameError:
        at = ""
        if what.pts is not None:
            at = f" at {self._seconds(what.pts):.2f} s"
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
