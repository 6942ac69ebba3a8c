"""Draw the sample images: `python -m otprune_training.make_samples RUN_DIR`.

The photographs are in the public domain (docs/assets.md) and were held out of training. Without a
folder only the questions about them are written.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from otprune.demo import SAMPLES_DIR
from otprune.demo.words import COLORS
from otprune_training.questions import KINDS, Question, ask_many
from otprune_training.scenes import Scene, Sticker, render

SCALE = 6  # 576 pixels wide
SEED, DRAWN = 0, 3  # questions of each kind that are drawn
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


def scene_of(name: str) -> Scene:
    """A sample's scene, without its place on the photograph."""
    stickers = tuple(
        Sticker(kind, color, x, y, r, r > 9, 0.1, COLORS[color])
        for kind, color, x, y, r in SAMPLES[name][2]
    )
    return Scene(0, (0, 0, 0), flip=False, light=1.0, stickers=stickers)


def questions_of(name: str) -> list[Question]:
    """Questions of every kind about a sample, each text once."""
    rng = np.random.default_rng(SEED)
    kinds = [kind for kind in KINDS if kind != "list"] * DRAWN
    asked = {question.text: question for question in ask_many(scene_of(name), rng, kinds)}
    return list(asked.values())


def draw(folder: Path) -> None:
    """Draw the images from the photographs in a folder."""
    for name, (photo, (left, top, side), _) in SAMPLES.items():
        image = Image.open(folder / "photos" / f"{photo}.png").convert("RGB")
        width = int(side * min(image.size))
        box = (int(left * image.width), int(top * image.height), width)
        scene = replace(scene_of(name), box=box)
        render(scene, [image], SCALE).save(SAMPLES_DIR / f"{name}.jpg", quality=88)


def write_questions() -> None:
    """Write the questions, a JSON object a line, as `otprune eval` reads them."""
    lines = [
        {"file_name": f"{name}.jpg", "question": _written(question.text), "answer": question.answer}
        for name in SAMPLES
        for question in questions_of(name)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (SAMPLES_DIR / "metadata.jsonl").write_text(text)


def _written(text: str) -> str:
    """A question as people write it."""
    return text.replace(" ?", "?").capitalize()


if __name__ == "__main__":
    for place in sys.argv[1:]:
        draw(Path(place))
    write_questions()
