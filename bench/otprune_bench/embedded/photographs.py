"""The photographs of `otprune bench tokens`, taken from packages: none is in the repository.

Those of `otprune_training.photos` that show things, and more of one Debian package. They are a
separate set, so that the embedded model's training and held-out photographs do not change.
Origins and licences: docs/assets.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from otprune_training import photos

# Two patterns without a thing in them, and two medical images.
LEFT_OUT = frozenset(
    {
        "analogpattern_by_Peter_Nerlich.jpg",
        "umang_by_Abhishek_Mudgal.jpg",
        "ihc.png",
        "retina.jpg",
    }
)
OPENCV_PACKAGE = "opencv-doc=4.6.0+dfsg-12"
OPENCV_SHA256 = "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a"
OPENCV_FOLDER = "usr/share/doc/opencv-doc/examples"
OPENCV = [
    "alphamat/input_images/plant.jpg",
    "data/aero1.jpg",
    "data/aloeL.jpg",
    "data/apple.jpg",
    "data/basketball1.png",
    "data/board.jpg",
    "data/box_in_scene.png",
    "data/building.jpg",
    "data/butterfly.jpg",
    "data/chicky_512.png",
    "data/ela_original.jpg",
    "data/fruits.jpg",
    "data/graf1.png",
    "data/home.jpg",
    "data/left.jpg",
    "data/leuvenA.jpg",
    "data/licenseplate_motion.jpg",
    "data/orange.jpg",
    "data/rubberwhale1.png",
    "data/smarties.png",
    "data/squirrel_cls.jpg",
    "data/stuff.jpg",
]
NAMES = sorted(
    Path(name).stem
    for name in {*photos.SCIKIT_IMAGE, *photos.SCIKIT_LEARN, *photos.DEBIAN, *OPENCV} - LEFT_OUT
)


def collect(folder: Path) -> None:
    """Make `folder` with all photographs in it, or, if that fails, no folder.

    Raises:
        OTPruneError: a package is not installed, or cannot be downloaded.
    """
    with photos.whole_folder(folder) as filled, tempfile.TemporaryDirectory() as unpacked:
        photos.copy_all(filled)
        photos.unpack_debian(OPENCV_PACKAGE, OPENCV_SHA256, Path(unpacked))
        for name in OPENCV:
            photos.copy(Path(unpacked) / OPENCV_FOLDER / name, filled)


def load(folder: Path) -> list[Image.Image]:
    """The photographs, in order of name; collected first if `folder` is not there."""
    if not folder.exists():
        collect(folder)
    return [Image.open(folder / f"{name}.png").convert("RGB") for name in NAMES]
