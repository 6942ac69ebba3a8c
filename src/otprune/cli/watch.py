"""A question about a stream, asked whenever something new comes in, or at regular times."""

from __future__ import annotations

import time as clocks
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from PIL.Image import Image

from otprune.engines.transformers.watching.session import Seen, watch
from otprune.errors import FrameError
from otprune.reading import Frames


@dataclass(frozen=True)
class Answered:
    """An answer, and the frame after which it was given.

    Attributes:
        seen: the frame.
        answer: in words.
        changed: whether the answer before was another one, or there was none.
        seconds: time to answer.
        rate: frames a second so far, by the clock, with all that was done about them.
    """

    seen: Seen
    answer: str
    changed: bool
    seconds: float
    rate: float


@dataclass
class Totals:
    """What was done about a stream, and where the time went, in seconds.

    Attributes:
        frames: that were seen.
        unchanged: of these, not encoded, since nothing changed in them.
        broken: frames that could not be read or used.
        dropped: frames of a live source that came while others were worked on.
        kept: visual tokens.
        remembered: visual tokens at the end.
        answers: given.
        read, encode, select, prefill, answer, draw: seconds of each.
        seconds: of all.
    """

    frames: int = 0
    unchanged: int = 0
    broken: int = 0
    dropped: int = 0
    kept: int = 0
    remembered: int = 0
    answers: int = 0
    read: float = 0.0
    encode: float = 0.0
    select: float = 0.0
    prefill: float = 0.0
    answer: float = 0.0
    draw: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """When to ask, and when to stop.

    Attributes:
        question: in the model's words.
        every: seconds between answers, in the time of the stream; None: an answer after each frame
            that kept a token.
        frames, seconds: the most frames to see, and the end in the time of the stream; None: none.
        max_new_tokens: of an answer.
    """

    question: str
    every: float | None
    frames: int | None
    seconds: float | None
    max_new_tokens: int


class Drawing(Protocol):
    """Takes every frame that was seen, to draw it."""

    def add(self, image: Image, seen: Seen, answer: str) -> None:
        """One frame, and the last answer, "" before there is one."""


class Watching:
    """The work on one stream.

    Attributes:
        totals: of what was done so far.
    """

    def __init__(
        self,
        session: watch,
        plan: Plan,
        on_answer: Callable[[Answered], object],
        on_broken: Callable[[FrameError], object],
        drawing: Drawing | None = None,
    ) -> None:
        self.totals = Totals()
        self._session, self._plan = session, plan
        self._on_answer, self._on_broken = on_answer, on_broken
        self._drawing = drawing
        self._start = float(session.state_dict()["time"])  # of a stream that is continued
        self._answer = ""
        self._slot = -1

    def run(self, frames: Frames) -> None:
        """See frames, ask and draw until the stream or the plan ends.

        Raises:
            OTPruneError: the source failed, or the session refuses its frames.
        """
        began = clocks.perf_counter()
        totals = self.totals
        frames.on_broken = self.broken
        try:
            for time, image in self._timed(frames):
                if self._plan.seconds is not None and time >= self._plan.seconds:
                    break
                self._frame(time, image, began)
                if totals.frames == self._plan.frames:
                    break
        finally:
            totals.dropped = frames.dropped
            totals.remembered = self._session.tokens
            totals.seconds = clocks.perf_counter() - began

    def broken(self, error: FrameError) -> None:
        """Count and report a frame that cannot be read or used."""
        self.totals.broken += 1
        self._on_broken(error)

    def _timed(self, frames: Frames) -> Iterator[tuple[float, Image]]:
        while True:
            began = clocks.perf_counter()
            found = next(frames, None)
            self.totals.read += clocks.perf_counter() - began
            if found is None:
                return
            yield found

    def _frame(self, time: float, image: Image, began: float) -> None:
        totals = self.totals
        try:
            seen = self._session.see(image, self._start + time)
        except FrameError as error:
            self.broken(error)
            return
        totals.frames += 1
        totals.unchanged += not seen.changed
        totals.kept += len(seen.indices)
        totals.encode += seen.encode
        totals.select += seen.select
        totals.prefill += seen.prefill
        if self._due(time, seen):
            self._ask(seen, began)
        if self._drawing is not None:
            before = clocks.perf_counter()
            self._drawing.add(image, seen, self._answer)
            totals.draw += clocks.perf_counter() - before

    def _due(self, time: float, seen: Seen) -> bool:
        if self._plan.every is None:
            return len(seen.indices) > 0
        slot = int(time / self._plan.every + 1e-3)
        if slot == self._slot or not seen.remembered:
            return False
        self._slot = slot
        return True

    def _ask(self, seen: Seen, began: float) -> None:
        before = clocks.perf_counter()
        answer = self._session.ask(
            self._plan.question,
            max_new_tokens=self._plan.max_new_tokens,
            do_sample=False,
            num_beams=1,
        )
        now = clocks.perf_counter()
        totals = self.totals
        changed = not totals.answers or answer != self._answer
        totals.answers += 1
        totals.answer += now - before
        self._answer = answer
        rate = totals.frames / (now - began)
        self._on_answer(Answered(seen, answer, changed, now - before, rate))
