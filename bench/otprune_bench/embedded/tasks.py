"""The benches' own task set: questions whose evidence is known to the token.

A task is one held-out image of stickers on a photograph, with questions about it. Small stickers
are hard for pruning: each covers few tokens, and `Task.evidence` says which. Everything follows
from the seed; the first n tasks are the same however many are made.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otprune.demo.words import COLOR_NAMES, NOUNS
from otprune.errors import OTPruneError
from otprune_training import photos
from otprune_training.architecture import WORD_ID
from otprune_training.questions import Question, ask
from otprune_training.scenes import GRID, Scene, owners, render, sample_scene

# What one image is asked, where its scene allows; every kind's chance level differs.
KINDS = ("existence", "color", "shape", "naming", "position", "relation", "count", "digit")
MIX = ("existence", *KINDS, "existence", "relation")
ALL = "all"  # kinds
SPLITS = ("validation", "test")  # to choose by, and to look at once
SCALE = 4  # images are drawn at four times the model's own size, as a photograph would come
TRIES = 20


@dataclass(frozen=True, eq=False)
class Task:
    """One image and what is asked about it.

    Attributes:
        image: RGB, `SCALE` times the embedded model's own size.
        owners: `(144,)` index of the sticker that holds each patch, -1 where it is photograph.
    """

    scene: Scene
    image: Image.Image
    questions: tuple[Question, ...]
    owners: NDArray[np.int8]

    def evidence(self, question: Question) -> NDArray[np.bool_]:
        """`(144,)` patches of the stickers that a question names; none if they are absent."""
        meant = {i for _, stickers in question.mentions for i in stickers}
        there: NDArray[np.bool_] = np.isin(self.owners, sorted(meant))
        return there

    def objects(self) -> NDArray[np.bool_]:
        """`(stickers, 144)` the patches of each sticker."""
        there: NDArray[np.bool_] = self.owners == np.arange(len(self.scene.stickers))[:, None]
        return there


@dataclass(frozen=True, eq=False)
class Questions:
    """Image, kind and right answer's id of each question of some tasks, `(Q,)`."""

    image: NDArray[Any]
    kind: NDArray[Any]
    answer: NDArray[Any]

    @classmethod
    def about(cls, tasks: Sequence[Task]) -> Questions:
        """All that is asked, image by image."""
        asked = [(p, q) for p, task in enumerate(tasks) for q in task.questions]
        return cls(
            np.array([p for p, _ in asked]),
            np.array([q.kind for _, q in asked]),
            np.array([WORD_ID[q.answer] for _, q in asked]),
        )

    def of(self, group: str) -> NDArray[np.bool_]:
        """Those of one kind, or `ALL`."""
        return np.asarray((self.kind == group) | (group == ALL))


def make(below: Sequence[Image.Image], number: int, seed: int) -> list[Task]:
    """`number` tasks on crops of the images `below`, none with a question twice.

    Every scene has at least one combination of colour and noun that training never showed.
    Existence questions are balanced; an absentee mostly shares its colour or its noun with
    something that is there. "relation" is left and right, "digit" is reading.
    """
    sizes = [image.size for image in below]
    tasks = []
    for i in range(number):
        rng = np.random.default_rng((seed, i))
        scene = sample_scene(rng, sizes, unseen=True)
        image = render(scene, below, SCALE)
        tasks.append(Task(scene, image, _questions(scene, rng), owners(scene)))
    return tasks


def _questions(scene: Scene, rng: np.random.Generator) -> tuple[Question, ...]:
    asked: dict[str, Question] = {}
    for kind in MIX:
        for _ in range(TRIES):
            question = ask(scene, rng, kind, unseen=True)
            # Relations come out as above/below too, which is a kind of its own.
            if question and question.kind == kind and question.text not in asked:
                asked[question.text] = question
                break
    return tuple(asked.values())


def unrelated_questions(task: Task, number: int, seed: int) -> str:
    """`number` answered questions that tell nothing about the task's: absent things, all "no".

    They name neither what is in the image nor what the task's questions name. Each is eight words,
    among them the answer's end, as the chat template writes a conversation.
    """
    rng = np.random.default_rng((seed, number))
    asked = {
        " ".join(pair)
        for question in task.questions
        for pair in itertools.pairwise(question.text.split())
    }
    present = {sticker.name for sticker in task.scene.stickers}
    names = [f"{color} {noun}" for color in COLOR_NAMES for noun in NOUNS]
    free = [name for name in names if name not in present | asked]
    chosen = [free[i] for i in rng.integers(len(free), size=number)]
    return " ".join(f"is there {'an' if x[0] in 'aeiou' else 'a'} {x} ? no <eos>" for x in chosen)


def of_split(split: str, images: int, photographs: bool, photos: Path, seed: int) -> list[Task]:
    """The tasks of one of `SPLITS`: scenes and photographs of its own.

    Args:
        images: how many.
        photographs, photos: as for `backgrounds`.
    """
    number = SPLITS.index(split)
    below = backgrounds(photographs, photos, seed)[number::2]
    return make(below, images, 1000 * (1 + number) + seed)


def check_split(split: str) -> None:
    """Raise OTPruneError for what is none of `SPLITS`."""
    if split not in SPLITS:
        raise OTPruneError(f"split is {split!r}: expected {' or '.join(SPLITS)}")


def backgrounds(photographs: bool, folder: Path, seed: int, number: int = 12) -> list[Image.Image]:
    """What lies below the stickers.

    Args:
        photographs: whether the held-out photographs, collected into `folder` if it is not there;
            else noise.
        seed, number: of the noise.
    """
    return photos.load(folder, held_out=True) if photographs else noise_images(number, seed)


def noise_images(number: int, seed: int, side: int = 240) -> list[Image.Image]:
    """Images of nothing: colours that change smoothly, coarse to fine (octaves of noise).

    They stand below the stickers where photographs cannot be had, as in `--quick`.
    """
    made = []
    for i in range(number):
        rng = np.random.default_rng((seed, i))
        values = np.full((side, side, 3), 118.0) + rng.normal(0, 25, 3)
        for cells in (3, GRID // 2, GRID, 2 * GRID, 4 * GRID):
            coarse = rng.uniform(-1, 1, (cells, cells, 3)) * 90 * (3 / cells) ** 0.7
            levels = np.clip(coarse + 128, 0, 255).astype(np.uint8)
            smooth = Image.fromarray(levels).resize((side, side), Image.Resampling.BICUBIC)
            values += np.asarray(smooth, np.float64) - 128
        made.append(Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)))
    return made
