"""A video of what was seen: each frame, beside it the kept patches, and the current answer."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
from av.error import FFmpegError
from PIL import Image, ImageDraw

from otprune.asking import drawing, lettering
from otprune.asking.drawing import GAP, INK, MARGIN, PAPER, SMALL, SOFT, TITLE, Grid
from otprune.errors import OTPruneError, UnsupportedError

if TYPE_CHECKING:
    from otprune.asking.models import Loaded
    from otprune.engines.transformers.watching.session import Seen

SUFFIXES = (".mp4", ".mkv", ".mov")
SIDE = 480  # the longer side of a panel, in pixels
STRIP = 110  # height of the text below
_CODECS = ("libx264", "libopenh264", "mpeg4")  # in order of preference; builds of FFmpeg differ
_TICK = Fraction(1, 1000)  # frames have times of their own, in milliseconds


def check_target(target: Path, source: str | int) -> None:
    """Refuse a file that cannot be written, before anything is computed.

    Raises:
        OTPruneError: no such folder, another format, or the source itself.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise OTPruneError(f"--record {target}: videos are written as {', '.join(SUFFIXES)}")
    if target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        raise OTPruneError(f"--record {target}: {what}")
    given = None if isinstance(source, int) else Path(source)
    if given is not None and target.exists() and given.exists() and target.samefile(given):
        raise OTPruneError(f"--record {target} would overwrite the source: give another name")
    drawing.check_folder("--record", target.parent)


class Recording:
    """Writes the video; the first frame fixes its size, later ones are fitted into it.

    A frame that was not encoded, since nothing changed, is shown with the patches of the one
    before.

    Args:
        target: checked by `check_target`.
        question: shown below.
        loaded: the model, whose frames have tokens in one grid.

    Attributes:
        lost: characters that no font has.
    """

    def __init__(self, target: Path, question: str, loaded: Loaded) -> None:
        self.lost: set[str] = set()
        self._target, self._question, self._loaded = target, question, loaded
        self._grids: dict[tuple[int, int], Grid] = {}
        self._kept: Sequence[int] = ()
        self._before = 0
        self._panel = (0, 0)
        self._last = -1
        self._container: Any = None
        self._stream: Any = None

    def add(self, image: Image.Image, seen: Seen, answer: str) -> None:
        """Draw and write a frame.

        Raises:
            UnsupportedError: it is not known where the tokens lie.
            OTPruneError: the file cannot be written.
        """
        if image.size not in self._grids:
            from otprune.asking.grid import grid_of_frame

            self._grids[image.size] = grid_of_frame(self._loaded, image)
        grid = self._grids[image.size]
        if seen.changed:
            if seen.before != grid.rows * grid.columns:
                raise UnsupportedError(
                    f"a frame has {seen.before} tokens, which do not fill the grid of "
                    f"{grid.rows} x {grid.columns}: leave --record out"
                )
            self._kept, self._before = seen.indices.tolist(), seen.before
        try:
            if self._container is None:
                self._open(image.size)
            self._write(self._drawn(image, grid, seen, answer), seen.time)
        except (FFmpegError, OSError) as cause:
            raise OTPruneError(f"cannot write {self._target}: {cause}") from cause

    def close(self) -> bool:
        """Finish the file; whether there is one."""
        if self._container is None:
            return False
        container, self._container = self._container, None
        try:
            container.mux(self._stream.encode())
        except (FFmpegError, OSError) as cause:
            raise OTPruneError(f"cannot write {self._target}: {cause}") from cause
        finally:
            container.close()
        return True

    def _open(self, size: tuple[int, int]) -> None:
        scale = SIDE / max(size)
        self._panel = (max(2, round(size[0] * scale)), max(2, round(size[1] * scale)))
        width = max(2 * (self._panel[0] + MARGIN) + GAP, SIDE)
        height = self._panel[1] + 2 * MARGIN + STRIP
        self._size = (width + width % 2, height + height % 2)  # 4:2:0 needs even sides
        self._container = av.open(str(self._target), "w")
        name = next(name for name in _CODECS if _known(name))
        self._stream = self._container.add_stream(name, rate=30)
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        if name == "libx264":
            self._stream.options = {"preset": "veryfast"}  # a camera does not wait for the encoder
        self._stream.codec_context.time_base = _TICK

    def _write(self, page: Image.Image, time: float) -> None:
        frame: Any = av.VideoFrame.from_image(page)  # type: ignore[no-untyped-call]
        # Frames of equal times follow each other by a tick.
        self._last = max(self._last + 1, round(time / _TICK))
        frame.pts, frame.time_base = self._last, _TICK
        self._container.mux(self._stream.encode(frame))

    def _drawn(self, image: Image.Image, grid: Grid, seen: Seen, answer: str) -> Image.Image:
        page = Image.new("RGB", self._size, PAPER)
        width, height = self._panel
        scale = min(width / image.width, height / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        photo = image.resize(size, Image.Resampling.BILINEAR)
        place = (MARGIN + (width - size[0]) // 2, MARGIN + (height - size[1]) // 2)
        page.paste(photo, place)
        shown = drawing.shade(photo, grid, self._kept)
        page.paste(shown, (place[0] + width + GAP, place[1]))
        kept = f"{len(self._kept)} of {self._before} tokens kept"
        if not seen.changed:
            kept = "unchanged"
        soft = f"{seen.time:.2f} s, {kept}, {seen.remembered} remembered"
        pen = ImageDraw.Draw(page)
        y = MARGIN + height + 14
        for text, colour, letters, step in (
            (soft, SOFT, SMALL, 28),
            (f"{self._question}  {answer}", INK, TITLE, 34),
        ):
            readable, missing = lettering.readable(text)
            self.lost.update(missing)
            for line in drawing.wrap(readable, letters, self._size[0] - 2 * MARGIN, most=2):
                lettering.write(pen, (MARGIN, y), line, colour, letters)
                y += step
        return page


def _known(codec: str) -> bool:
    try:
        av.codec.Codec(codec, "w")
    except (FFmpegError, ValueError):
        return False
    return True
