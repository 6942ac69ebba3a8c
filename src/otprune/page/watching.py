"""A clip or a camera, frame by frame: kept patches, and an answer whenever something is new."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import otprune
from otprune.asking.drawing import Grid
from otprune.asking.grid import grid_of_frame
from otprune.asking.models import Loaded
from otprune.asking.sessions import session_of
from otprune.errors import FrameError, OTPruneError, UnsupportedError
from otprune.page import overlay
from otprune.page.asked import check_words
from otprune.page.overlay import Picture
from otprune.selectors import METHODS as OF_IMAGES

_OF_STREAMS = {
    "stream": otprune.StreamSelector,
    "fixed-camera": otprune.FixedCameraSelector,
    "uniform": otprune.UniformStream,
}
METHODS = ("otprune", "transport", "simplex", *_OF_STREAMS)
RATES = (1, 64)  # tokens a frame, the slider's ends
LONGEST = 32  # tokens of an answer
MOST = 300  # frames of a clip
# What FFmpeg opens as one file; a playlist is several.
_CLIP = re.compile(rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", re.S)


@dataclass(frozen=True)
class Frame:
    """A frame that was seen, and the answer after it."""

    picture: Picture
    says: str
    answer: str


class Watched:
    """One visitor's stream. It has a session of its own, and shares the model alone.

    Raises:
        OTPruneError: the model does not allow it, or the question or a setting is wrong.
    """

    def __init__(self, loaded: Loaded, question: str, method: str, rate: float) -> None:
        check_words(question, loaded)
        if method not in METHODS:
            raise OTPruneError(f"method={method!r}: expected one of {', '.join(METHODS)}")
        if not (RATES[0] <= rate <= RATES[1] and rate == int(rate)):
            raise OTPruneError(f"rate={rate!r}: expected {RATES[0]} to {RATES[1]} tokens a frame")
        selector: Any = (_OF_STREAMS | OF_IMAGES)[method](int(rate))
        self._loaded, self._question = loaded, question
        self._session = session_of(loaded, selector, None, "oldest", 0.02)
        self._grids: dict[tuple[int, int], Grid | UnsupportedError] = {}
        self._kept: Sequence[int] = ()
        self._answer = ""

    def see(self, image: Any, time: float | None) -> Frame:
        """Take in a frame, and answer if tokens of it were kept.

        Args:
            time: seconds since the start; None: by the clock.

        Raises:
            FrameError: the frame cannot be used; the stream can go on.
        """
        seen = self._session.see(image, time)
        if seen.changed:
            self._kept = seen.indices.tolist()
        if len(seen.indices):
            self._answer = self._session.ask(
                self._question, max_new_tokens=LONGEST, do_sample=False, num_beams=1
            )
        what = f"{len(seen.indices)} of {seen.before} tokens kept" if seen.changed else "unchanged"
        picture = overlay.picture(image, self._grid(image), self._kept)
        says = f"{seen.time:.2f} s: {what}, {seen.remembered} remembered"
        return Frame(picture, says, self._answer)

    def close(self) -> None:
        """Free what is remembered."""
        self._session.close()

    def _grid(self, image: Any) -> Grid | UnsupportedError:
        if image.size not in self._grids:
            try:
                self._grids[image.size] = grid_of_frame(self._loaded, image)
            except UnsupportedError as error:
                self._grids[image.size] = error
        return self._grids[image.size]


def clip(
    loaded: Loaded,
    path: str | None,
    question: str,
    method: str,
    rate: float,
    every: float,
    most: int = MOST,
) -> Iterator[Frame]:
    """The frames of a clip, one of every so many seconds, as fast as the model is.

    Raises:
        OTPruneError: the clip, the question or a setting is wrong.
    """
    if not path:
        raise OTPruneError("There is no clip: drop one, or use the sample.")
    with open(path, "rb") as file:
        if not _CLIP.match(file.read(16)):
            raise OTPruneError(
                f"{Path(path).name} is not a clip that is read here: give an MP4, MOV, WebM, "
                "MKV or AVI"
            )
    watched, used = Watched(loaded, question, method, rate), False
    try:
        with otprune.frames(path, every) as reading:
            for number, (time, image) in enumerate(reading):
                if number == most:
                    return
                try:
                    frame = watched.see(image, time)
                except FrameError:  # the reader goes on with the next, and so does this
                    continue
                used = True
                yield frame
        if not used:
            raise OTPruneError(f"no frame of {Path(path).name} could be used")
    except OTPruneError as error:
        raise type(error)(str(error).replace(path, Path(path).name)) from error
    finally:
        watched.close()
