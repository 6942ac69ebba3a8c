"""Images and videos of any size, made from a seed; broken ones too."""

from __future__ import annotations

import base64
import io
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pictures


@dataclass(frozen=True)
class Image:
    """Smooth noise of `width` x `height` pixels, in a file format and a mode of Pillow."""

    seed: int
    width: int
    height: int
    form: str = "png"
    mode: str = "RGB"

    def url(self) -> str:
        """As a data URL."""
        return _url(f"image/{self.form}", self.data())

    @lru_cache(maxsize=128)  # noqa: B019 - what is repeated is made once; 128 are a few megabytes
    def data(self) -> bytes:
        """The file's bytes."""
        return _encoded(_noise(self.seed, self.width, self.height).convert(self.mode), self.form)

    def pixels(self) -> Any:
        """The RGB image that the file holds, on white where it is transparent."""
        image = Pictures.open(io.BytesIO(self.data()))
        if image.mode != "RGBA":
            return image.convert("RGB")
        ground = Pictures.new("RGB", image.size, (255, 255, 255))
        ground.paste(image, mask=image.getchannel("A"))
        return ground


@dataclass(frozen=True)
class Video:
    """An even number of frames of smooth noise, as JPEG images or as an MP4 file.

    An MP4 has 2 frames a second and at least 4 of them, so that vLLM's loader takes them all.
    """

    seed: int
    frames: int
    width: int
    height: int
    fps: float
    form: str = "jpeg"

    def url(self) -> str:
        """As a data URL."""
        if self.form == "mp4":
            return _url("video/mp4", self._mp4())
        parts = [base64.b64encode(data).decode() for data in self._jpegs()]
        return "data:video/jpeg;base64," + ",".join(parts)

    def pixels(self) -> np.ndarray:
        """The frames that the file holds, `(frames, height, width, 3)` uint8."""
        if self.form == "mp4":
            return _decoded(self._mp4())
        frames = [Pictures.open(io.BytesIO(data)).convert("RGB") for data in self._jpegs()]
        return np.stack([np.asarray(frame) for frame in frames])

    @lru_cache(maxsize=32)  # noqa: B019
    def _jpegs(self) -> list[bytes]:
        seeds = range(self.seed, self.seed + self.frames)
        return [_encoded(_noise(seed, self.width, self.height), "jpeg") for seed in seeds]

    @lru_cache(maxsize=32)  # noqa: B019
    def _mp4(self) -> bytes:
        import cv2

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            size = (self.width, self.height)
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, size)
            for seed in range(self.seed, self.seed + self.frames):
                writer.write(np.asarray(_noise(seed, *size))[..., ::-1])
            writer.release()
            return path.read_bytes()


@dataclass(frozen=True)
class Broken:
    """What is no image: one of `BROKEN`."""

    name: str

    def url(self) -> str:
        """As a data URL."""
        return BROKEN[self.name]


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _noise(seed: int, width: int, height: int) -> Any:
    """8 x 8 random colours, smoothly enlarged."""
    colors = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Pictures.fromarray(colors).resize((width, height))


def _encoded(image: Any, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def _decoded(data: bytes) -> np.ndarray:
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        path.write_bytes(data)
        capture, frames = cv2.VideoCapture(str(path)), []
        while (read := capture.read())[0]:
            frames.append(read[1][..., ::-1])
        return np.stack(frames)


_PNG = _encoded(_noise(0, 64, 64), "png")
_JPEG = _encoded(_noise(0, 64, 64), "jpeg")
# Data URLs, by what is wrong with them.
BROKEN = {
    "no image": _url("image/png", b"this is text and no image"),
    "empty": _url("image/png", b""),
    "half a PNG": _url("image/png", _PNG[: len(_PNG) // 2]),
    "a tenth of a JPEG": _url("image/jpeg", _JPEG[: len(_JPEG) // 10]),
    "no base64": "data:image/png;base64,***",
}
