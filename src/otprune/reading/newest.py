"""A live source that never lags: a thread reads on, and only the newest frame is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from otprune.reading.moments import Moment, Source, thinned

_WAIT = 0.1  # seconds between looks for Ctrl-C, which a waiting lock does not hear everywhere
_END = 2.0  # seconds to wait for a thread that reads; it ends by itself after its next frame


class Newest:
    """The newest frame at each step. Reading begins with the first.

    Args:
        source: is closed by the thread that reads it.
        moments: its frames.
        every: see `thinned`. Frames that are passed over do not count as dropped.

    Attributes:
        dropped: number of frames that were replaced by a newer one before they were taken.
    """

    def __init__(
        self, source: Source, moments: Iterator[Moment], every: float | None = None
    ) -> None:
        self.dropped = 0
        self._change = threading.Condition()
        self._newest: Moment | None = None
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._source = source
        self._thread = threading.Thread(target=self._read, args=(moments, every), daemon=True)

    def _read(self, moments: Iterator[Moment], every: float | None) -> None:
        error: BaseException | None = None
        try:
            for moment in thinned(self._until_closed(moments), every):
                with self._change:
                    self.dropped += self._newest is not None
                    self._newest = moment
                    self._change.notify()
        except BaseException as cause:  # is raised where the frames are taken
            error = cause
        finally:
            self._source.close()  # here, since no other thread may close what this one reads
            with self._change:
                self._error, self._ended = error, True
                self._change.notify()

    def _until_closed(self, moments: Iterator[Moment]) -> Iterator[Moment]:
        for moment in moments:
            if self._closed:
                return
            yield moment

    def __iter__(self) -> Newest:
        return self

    def __next__(self) -> Moment:
        if self._thread.ident is None and not self._closed:
            self._thread.start()
        with self._change:
            while self._newest is None and not self._ended and not self._closed:
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
        if self._thread.ident is None:
            self._source.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(_END)
