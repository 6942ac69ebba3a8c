"""A live source that never lags: a thread reads on, and only the newest frame is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from otprune.reading.moments import Moment, Source

_WAIT = 0.1  # seconds between looks for Ctrl-C, which a waiting lock does not hear everywhere
_END = 2.0  # seconds to wait for a thread that reads; it ends by itself after its next frame


class Newest:
    """The newest frame at each step.

    Attributes:
        dropped: number of frames that were replaced by a newer one before they were taken.
    """

    def __init__(self, source: Source, moments: Iterator[Moment]) -> None:
        self.dropped = 0
        self._change = threading.Condition()
        self._newest: Moment | None = None
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._thread = threading.Thread(target=self._read, args=(source, moments), daemon=True)
        self._thread.start()

    def _read(self, source: Source, moments: Iterator[Moment]) -> None:
        error: BaseException | None = None
        try:
            for moment in moments:
                with self._change:
                    if self._closed:
                        break
                    self.dropped += self._newest is not None
                    self._newest = moment
                    self._change.notify()
        except BaseException as cause:  # is raised where the frames are taken
            error = cause
        finally:
            source.close()  # here, since no other thread may close what this one reads
            with self._change:
                self._error, self._ended = error, True
                self._change.notify()

    def __iter__(self) -> Newest:
        return self

    def __next__(self) -> Moment:
        with self._change:
            while self._newest is None and not self._ended:
                self._change.wait(_WAIT)
            found, self._newest = self._newest, None
        if found is not None:
            return found
        if self._error is not None and not self._closed:
            error, self._error = self._error, None
            raise error
        raise StopIteration

    def close(self) -> None:
        """End the thread, which closes the source."""
        with self._change:
            self._closed, self._newest = True, None
        if self._thread is not threading.current_thread():
            self._thread.join(_END)
