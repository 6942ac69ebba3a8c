"""Training batches for the embedded model: images, packed questions and dense labels.

Every batch is a function of (seed, step), so a resumed run has the batches of an unbroken one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from otprune.demo.words import COLOR_NAMES, DIGITS, NOUNS, SHAPES, UNSEEN
from otprune_training.architecture import BOS, EOS, IMAGE_MEAN, IMAGE_STD, WORD_ID
from otprune_training.questions import Question, ask_many
from otprune_training.scenes import GRID, SIZE, Scene, excluded, owners, render, sample_scene

TOKENS = GRID * GRID
KINDS = (*SHAPES, *DIGITS)
NOUN_OF_KIND = tuple("digit" if kind in DIGITS else kind for kind in KINDS)
# How often each kind of question is asked about one image: in stage "language", and in "talks".
BASICS = (
    *("existence", "existence", "existence", "existence", "color", "color", "shape", "shape"),
    *("position", "position", "relation", "relation", "relation", "count", "count", "count"),
    *("digit", "size"),
)
MIX = (*BASICS, "naming", "naming", "naming")
TALKS = 0.35  # share of the images whose questions are one conversation, in stage "talks"
RESIZE = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


@dataclass
class Images:
    """B images and what is in each of their patches."""

    pixels: Tensor  # (B, 3, SIZE, SIZE)
    kind: Tensor  # (B, TOKENS) 0 photograph, 1 + index into KINDS
    color: Tensor  # (B, TOKENS) 0 photograph, 1 + index into COLOR_NAMES; -100 without a name
    big: Tensor  # (B, TOKENS) 0 photograph, 1 small, 2 big
    centre: Tensor  # (B, TOKENS, 2) centre of the patch's sticker, 0..1
    same: Tensor  # (B, TOKENS, 3) stickers in all, of this color (-100 without), of this noun
    excluded: Tensor  # (B, TOKENS, 1 + len(KINDS)) bool, kinds excluded in this colour


@dataclass
class Batch:
    """B images with T text tokens each: all questions of an image, one after the other."""

    images: Images
    ids: Tensor  # (B, T)
    block: Tensor  # (B, T) number of the question a word belongs to, from 1; -1 padding
    talk: Tensor  # (B,) bool, one conversation: each question sees those before it, answered
    positions: Tensor  # (B, T) a question starts right behind the image, or what it sees
    labels: Tensor  # (B, T) the word that follows, where it is part of an answer; else -100
    excluded: Tensor  # (B, T) the word that training excludes as this label, or -1
    kinds: list[str]  # (Q,) kind of every question
    ends: Tensor  # (Q, 4) row, column of a question's last word, of its first and last mention
    mentions: Tensor  # (M, 2) row and column of each mention
    targets: Tensor  # (M, 1 + TOKENS) bool, what the mention should look at: BOS, or patches
    places: Tensor  # (M, 2) centre of the one sticker that is meant, 0..1; NaN for none or several


def normalise(image: Image.Image) -> NDArray[np.float32]:
    """(3, SIZE, SIZE) float32 as the embedded processor makes it."""
    values = np.asarray(image, np.float32) / 255
    scaled = (values - np.array(IMAGE_MEAN, np.float32)) / np.array(IMAGE_STD, np.float32)
    channels_first: NDArray[np.float32] = scaled.transpose(2, 0, 1)
    return channels_first


def image_of(scene: Scene, photos: Sequence[Image.Image], rng: np.random.Generator) -> Image.Image:
    """A scene at the model's size: one of three resamplings and a little noise."""
    image = render(scene, photos).resize((SIZE, SIZE), RESIZE[rng.integers(3)])
    noise = rng.normal(0, rng.uniform(0, 4), (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def draw(
    photos: Sequence[Image.Image],
    rng: np.random.Generator,
    size: int,
    *,
    unseen: bool = False,
    free: bool = False,
) -> tuple[list[Scene], Images]:
    """`size` scenes and their images; `unseen` and `free` as in `sample_scene`."""
    sizes = [photo.size for photo in photos]
    scenes = [sample_scene(rng, sizes, unseen=unseen, free=free) for _ in range(size)]
    pixels = np.stack([normalise(image_of(scene, photos, rng)) for scene in scenes])
    return scenes, Images(torch.from_numpy(pixels), **_patch_labels(scenes))


def make_batch(
    photos: Sequence[Image.Image],
    seed: tuple[int, ...],
    size: int,
    *,
    unseen: bool = False,
    talks: bool = True,
) -> Batch:
    """`size` scenes with their questions; `unseen` as in `sample_scene`.

    Without `talks` only `BASICS`, and no conversations.
    """
    rng = np.random.default_rng(seed)
    scenes, images = draw(photos, rng, size, unseen=unseen)
    asked = []
    for scene in scenes:
        kinds = [*(MIX if talks else BASICS), *(["list"] if rng.random() < 0.25 else [])]
        order = [kinds[i] for i in rng.permutation(len(kinds))]
        asked.append(ask_many(scene, rng, order, unseen=unseen))
    return Batch(images, **_pack(scenes, asked, rng, talks))


def _pack(
    scenes: Sequence[Scene],
    asked: Sequence[Sequence[Question]],
    rng: np.random.Generator,
    talks: bool,
) -> dict[str, Any]:
    rows, kinds, ends, mentions, targets, places = [], [], [], [], [], []
    talk = torch.zeros(len(scenes), dtype=torch.bool)
    if talks:
        talk = torch.from_numpy(rng.random(len(scenes)) < TALKS)
    for b, (scene, questions) in enumerate(zip(scenes, asked, strict=True)):
        own = owners(scene)
        row: list[tuple[int, int, int, int, int]] = []
        for number, question in enumerate(questions, 1):
            words = [WORD_ID[word] for word in question.text.split()]
            answer = [WORD_ID[word] for word in question.answer.split()]
            sequence = [*words, *answer, EOS]
            first = len(row)
            start = 0 if rng.random() < 0.7 else int(rng.integers(60))
            if talk[b]:
                start = first
            kinds.append(question.kind)
            named = [first + where for where, _ in question.mentions]
            ends.append((b, first + len(words) - 1, named[0], named[-1]))
            for where, stickers in question.mentions:
                mentions.append((b, first + where))
                look = np.isin(own, stickers) if stickers else np.zeros(TOKENS, bool)
                targets.append(np.concatenate([[not look.any()], look]))
                one = scene.stickers[stickers[0]] if len(stickers) == 1 else None
                places.append((one.x / SIZE, one.y / SIZE) if one else (np.nan, np.nan))
            absent = _excluded_word(scene, question)
            for i, word in enumerate(sequence if talk[b] else sequence[:-1]):
                label = sequence[i + 1] if len(words) <= i + 1 < len(sequence) else -100
                at_end = absent if i + 1 == len(words) else -1
                row.append((word, number, TOKENS + 1 + start + i, label, at_end))
        rows.append(row)
    width = max(map(len, rows))
    packed = np.tile(np.array([0, -1, 0, -100, -1]), (len(rows), width, 1))
    for b, row in enumerate(rows):
        packed[b, : len(row)] = row
    ids, block, positions, labels, excluded_words = torch.from_numpy(packed).unbind(-1)
    return {
        "ids": ids,
        "block": block,
        "talk": talk,
        "positions": positions,
        "labels": labels,
        "excluded": excluded_words,
        "kinds": kinds,
        "ends": torch.tensor(ends),
        "mentions": torch.tensor(mentions),
        "targets": torch.from_numpy(np.stack(targets)),
        "places": torch.tensor(places, dtype=torch.float32),
    }


def _excluded_word(scene: Scene, question: Question) -> int:
    """Id of the word that cannot answer a question about colour or shape in training, or -1."""
    if question.kind not in ("color", "shape", "naming"):
        return -1
    sticker = scene.stickers[question.mentions[0][1][0]]
    if question.answer in COLOR_NAMES:
        return WORD_ID[dict(UNSEEN)[sticker.noun]]
    nouns = {color: noun for noun, color in UNSEEN}
    return WORD_ID[nouns[sticker.color]] if sticker.color in nouns else -1


def _patch_labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    shape = (len(scenes), TOKENS)
    kind, color, big = (np.zeros(shape, np.int64) for _ in range(3))
    centre, same = np.zeros((*shape, 2), np.float32), np.zeros((*shape, 3), np.int64)
    absent = np.zeros((*shape, 1 + len(KINDS)), bool)
    for b, scene in enumerate(scenes):
        own = owners(scene)
        same[b, :, 0] = len(scene.stickers)
        for i, s in enumerate(scene.stickers):
            here = own == i
            kind[b, here] = 1 + KINDS.index(s.kind)
            color[b, here] = 1 + COLOR_NAMES.index(s.color) if s.color else -100
            big[b, here] = 1 + s.big
            centre[b, here] = s.x / SIZE, s.y / SIZE
            alike = sum(o.color == s.color for o in scene.stickers)
            same[b, here, 1] = alike if s.color else -100
            same[b, here, 2] = sum(o.noun == s.noun for o in scene.stickers)
            nouns = np.array(excluded(s))
            absent[b, here, 1:] = nouns[[NOUNS.index(noun) for noun in NOUN_OF_KIND]]
    named = {
        "excluded": absent,
        "kind": kind,
        "color": color,
        "big": big,
        "centre": centre,
        "same": same,
    }
    return {name: torch.from_numpy(values) for name, values in named.items()}


class Batches(IterableDataset[Images | Batch]):
    """Batches of one stage from `start` to `stop`, for a DataLoader with one worker."""

    def __init__(
        self,
        stage: str,
        photos: Sequence[Image.Image],
        seed: int,
        start: int,
        stop: int,
        size: int,
    ) -> None:
        self.stage, self.photos, self.seed = stage, photos, seed
        self.start, self.stop, self.size = start, stop, size

    def __iter__(self) -> Iterator[Images | Batch]:
        for step in range(self.start, self.stop):
            if self.stage == "vision":
                rng = np.random.default_rng((self.seed, step))
                yield draw(self.photos, rng, self.size, free=step % 2 > 0)[1]
            else:
                talks = self.stage == "talks"
                yield make_batch(self.photos, (self.seed, step), self.size, talks=talks)


def sequence_ids(batch: Batch) -> Tensor:
    """(B, 1) of BOS, what stands in front of the image."""
    return torch.full((len(batch.ids), 1), BOS)
