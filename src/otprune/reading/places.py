"""Where videos come from: files, cameras of this computer, and the network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otprune.errors import MissingDependencyError, OTPruneError

if TYPE_CHECKING:
    from otprune.reading.video import Video

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters at least: C:/ is a drive
_TIMEOUT = 10.0  # seconds without a sign of life on the network


def opened(source: str | Path | int) -> Video:
    """Open a video.

    Args:
        source: a path, a URL, or the number of a camera.

    Raises:
        OTPruneError: it cannot be opened, or shows nothing.
        MissingDependencyError: PyAV is not installed.
    """
    try:
        from otprune.reading.video import Video
    except ImportError as cause:
        raise MissingDependencyError(
            f"reading videos and cameras needs PyAV, which cannot be imported ({cause}): "
            "pip install 'otprune[video]'"
        ) from cause
    if isinstance(source, int):
        given = camera(source, sys.platform)
        return Video(f"camera {source} ({given['file']})", live=True, **given)
    url = _URL.match(str(source))
    if url:
        options = {"rtsp_transport": "tcp"} if url[1].lower().startswith("rtsp") else {}
        # A file on a web server has a length and waits for the reader.
        return Video(str(source), file=str(source), options=options, timeout=_TIMEOUT)
    if re.fullmatch(r"/dev/video\d+", str(source)):
        return Video(str(source), live=True, file=str(source), format="video4linux2")
    if not Path(source).exists():
        raise OTPruneError(
            f"no such video or folder: {source} (a camera is given by its number, such as 0)"
        )
    return Video(str(source), live=False, file=str(source))


def camera(number: int, platform: str) -> dict[str, Any]:
    """The arguments of `av.open` for a camera: Video4Linux, AVFoundation or DirectShow.

    Raises:
        OTPruneError: there is no camera of this number (where it can be told before it is opened).
    """
    if number < 0:
        raise OTPruneError(f"camera {number}: the first one is 0")
    if platform == "darwin":
        # Without a rate it asks for 29.97, which many cameras refuse.
        return {
            "file": f"{number}:none",
            "format": "avfoundation",
            "options": {"framerate": "30"},
        }
    if platform == "win32":
        return {"file": f"video={_named(number)}", "format": "dshow"}
    return {"file": f"/dev/video{number}", "format": "video4linux2"}


def _named(number: int) -> str:
    """The name of a camera on Windows, which DirectShow wants."""
    import av

    if not hasattr(av, "enumerate_input_devices"):
        raise OTPruneError(
            f"camera {number}: this PyAV ({av.__version__}) cannot list cameras: "
            "pip install --upgrade av"
        )
    devices = [d for d in av.enumerate_input_devices("dshow") if "video" in d.media_types]
    if number >= len(devices):
        there = ", ".join(d.description for d in devices) or "none"
        raise OTPruneError(f"there is no camera {number}; found: {there}")
    return str(devices[number].name)
