"""Draw the sample images: `python -m otprune_training.make_samples RUN_DIR`.

The photographs are in the public domain (docs/assets.md) and were held out of training.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from otprune.demo import SAMPLES_DIR
from otprune.demo.words import COLORS
from otprune_training.scenes import Scene, Sticker, render

SCALE = 6  # 576 pixels wide
# name: photograph, crop as shares of (width, height, short side), stickers (kind, color, x, y, r)
Spec = tuple[str, tuple[float, float, float], list[tuple[str, str, float, float, float]]]
SAMPLES: dict[str, Spec] = {
    "coffee": (
        "coffee",
        (0.14, 0.0, 1.0),
        [("star", "blue", 20, 22, 7), ("circle", "red", 79, 18, 6), ("7", "white", 78, 76, 8)],
    ),
    "cat": (
        "chelsea",
        (0.17, 0.0, 1.0),
        [
            ("square", "yellow", 14, 16, 6),
            ("ring", "cyan", 80, 80, 11),
            ("triangle", "green", 82, 20, 6.5),
            ("star", "purple", 16, 78, 6.5),
        ],
    ),
    "rocket": (
        "rocket",
        (0.22, 0.0, 1.0),
        [
            ("cross", "orange", 20, 30, 6.5),
            ("circle", "white", 74, 52, 11),
            ("3", "yellow", 22, 70, 8.3),
            ("cross", "red", 76, 18, 6),
        ],
    ),
    "camera": (
        "camera",
        (0.0, 0.0, 1.0),
        [
            ("ring", "red", 78, 24, 6.5),
            ("square", "blue", 80, 62, 6),
            ("triangle", "blue", 16, 20, 11),
        ],
    ),
}


def main(folder: Path) -> None:
    SAMPLES_DIR.mkdir(exist_ok=True)
    for name, (photo, (left, top, side), stickers) in SAMPLES.items():
        image = Image.open(folder / "photos" / f"{photo}.png").convert("RGB")
        width = int(side * min(image.size))
        box = (int(left * image.width), int(top * image.height), width)
        placed = tuple(
            Sticker(kind, color, x, y, r, r > 9, 0.1, COLORS[color])
            for kind, color, x, y, r in stickers
        )
        scene = Scene(0, box, flip=False, light=1.0, stickers=placed)
        render(scene, [image], SCALE).save(SAMPLES_DIR / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
