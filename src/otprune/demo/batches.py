"""Training batches for the embedded model: pictures, packed questions and dense labels.

Every batch is a function of (seed, step), so that a resumed run sees what an unbroken one would.
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

from otprune.demo.architecture import BOS, EOS, IMAGE_MEAN, IMAGE_STD, WORD_ID
from otprune.demo.questions import Question, ask_many
from otprune.demo.scenes import GRID, SIZE, Scene, owners, render, sample_scene
from otprune.demo.vocabulary import COLOR_NAMES, DIGITS, NOUNS, SHAPES

TOKENS = GRID * GRID
KINDS = (*SHAPES, *DIGITS)
# How often each kind of question is asked about one picture.
MIX = (
    *("existence", "existence", "existence", "existence", "color", "color", "shape", "shape"),
    *("position", "position", "relation", "relation", "relation", "count", "count", "count"),
    *("digit", "size"),
)
RESIZE = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


@dataclass
class Batch:
    """One batch of B pictures with T text tokens each, P labelled patches and M mentions in all."""

    pixels: Tensor  # (B, 3, SIZE, SIZE)
    ids: Tensor  # (B, T) words of all questions of a picture, one after the other
    block: Tensor  # (B, T) number of the question a word belongs to, from 1; -1 padding
    positions: Tensor  # (B, T) each question starts right behind the picture
    labels: Tensor  # (B, T) the word that follows, where it is part of an answer; else -100
    answer_kind: list[tuple[int, int, str]]  # (row, column of the answer's first label, kind)
    kind: Tensor  # (B, TOKENS) 0 photograph, 1 + index into KINDS
    color: Tensor  # (B, TOKENS) 0 photograph, 1 + index into COLOR_NAMES
    big: Tensor  # (B, TOKENS) 0 photograph, 1 small, 2 big
    centre: Tensor  # (B, TOKENS, 2) centre of the patch's sticker, 0..1
    same: Tensor  # (B, TOKENS, 3) stickers in all, of this colour, of this noun
    mentions: Tensor  # (M, 2) row and text column of each mention
    targets: Tensor  # (M, 1 + TOKENS) bool, what the mention should look at: BOS, or patches


def normalise(picture: Image.Image) -> NDArray[np.float32]:
    """(3, SIZE, SIZE) float32 as the embedded processor makes it."""
    values = np.asarray(picture, np.float32) / 255
    scaled = (values - np.array(IMAGE_MEAN, np.float32)) / np.array(IMAGE_STD, np.float32)
    channels_first: NDArray[np.float32] = scaled.transpose(2, 0, 1)
    return channels_first


def picture_of(
    scene: Scene, photos: Sequence[Image.Image], rng: np.random.Generator
) -> Image.Image:
    """A scene at the model's size: one of three resamplings and a little noise."""
    image = render(scene, photos).resize((SIZE, SIZE), RESIZE[rng.integers(3)])
    noise = rng.normal(0, rng.uniform(0, 4), (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def make_batch(
    photos: Sequence[Image.Image], seed: tuple[int, ...], size: int, *, unseen: bool = False
) -> Batch:
    """`size` scenes with their questions; `unseen` as in `sample_scene`."""
    rng = np.random.default_rng(seed)
    sizes = [photo.size for photo in photos]
    scenes = [sample_scene(rng, sizes, unseen=unseen) for _ in range(size)]
    pixels = np.stack([normalise(picture_of(scene, photos, rng)) for scene in scenes])
    own = [owners(scene) for scene in scenes]
    asked = []
    for scene in scenes:
        kinds = [*MIX, *(["list"] if rng.random() < 0.25 else [])]
        asked.append(
            ask_many(scene, rng, [kinds[i] for i in rng.permutation(len(kinds))], unseen=unseen)
        )
    return Batch(
        pixels=torch.from_numpy(pixels), **_pack(asked, own, rng), **_patch_labels(scenes, own)
    )


def _pack(
    asked: Sequence[Sequence[Question]], own: Sequence[NDArray[np.int8]], rng: np.random.Generator
) -> dict[str, Any]:
    rows, answers, mentions, targets = [], [], [], []
    for b, questions in enumerate(asked):
        row: list[tuple[int, int, int, int]] = []
        for number, question in enumerate(questions, 1):
            words = [WORD_ID[word] for word in question.text.split()]
            answer = [WORD_ID[word] for word in question.answer.split()]
            sequence = [*words, *answer, EOS]
            start = 0 if rng.random() < 0.7 else int(rng.integers(60))
            answers.append((b, len(row) + len(words) - 1, question.kind))
            for where, stickers in question.mentions:
                mentions.append((b, len(row) + where))
                look = np.isin(own[b], stickers) if stickers else np.zeros(TOKENS, bool)
                targets.append(np.concatenate([[not look.any()], look]))
            for i, word in enumerate(sequence[:-1]):
                label = sequence[i + 1] if i + 1 >= len(words) else -100
                row.append((word, number, TOKENS + 1 + start + i, label))
        rows.append(row)
    width = max(map(len, rows))
    packed = np.tile(np.array([0, -1, 0, -100]), (len(rows), width, 1))
    for b, row in enumerate(rows):
        packed[b, : len(row)] = row
    ids, block, positions, labels = torch.from_numpy(packed).unbind(-1)
    return {
        "ids": ids,
        "block": block,
        "positions": positions,
        "labels": labels,
        "answer_kind": answers,
        "mentions": torch.tensor(mentions),
        "targets": torch.from_numpy(np.stack(targets)),
    }


def _patch_labels(scenes: Sequence[Scene], own: Sequence[NDArray[np.int8]]) -> dict[str, Any]:
    shape = (len(scenes), TOKENS)
    kind, color, big = (np.zeros(shape, np.int64) for _ in range(3))
    centre, same = np.zeros((*shape, 2), np.float32), np.zeros((*shape, 3), np.int64)
    for b, scene in enumerate(scenes):
        same[b, :, 0] = len(scene.stickers)
        for i, s in enumerate(scene.stickers):
            here = own[b] == i
            kind[b, here] = 1 + KINDS.index(s.kind)
            color[b, here] = 1 + COLOR_NAMES.index(s.color)
            big[b, here] = 1 + s.big
            centre[b, here] = s.x / SIZE, s.y / SIZE
            same[b, here, 1] = sum(o.color == s.color for o in scene.stickers)
            same[b, here, 2] = sum(o.noun == s.noun for o in scene.stickers)
    named = {"kind": kind, "color": color, "big": big, "centre": centre, "same": same}
    return {name: torch.from_numpy(values) for name, values in named.items()}


class Batches(IterableDataset[Batch]):
    """Batches of one stage from `start` on, for a DataLoader with one worker."""

    def __init__(
        self, photos: Sequence[Image.Image], seed: int, start: int, stop: int, size: int
    ) -> None:
        self.photos, self.seed, self.start, self.stop, self.size = photos, seed, start, stop, size

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.start, self.stop):
            yield make_batch(self.photos, (self.seed, step), self.size)


def sequence_ids(batch: Batch) -> Tensor:
    """(B, 1) of BOS, what stands in front of the picture."""
    return torch.full((len(batch.ids), 1), BOS)


NOUN_OF_KIND = torch.tensor([0, *(1 + NOUNS.index("digit" if k in DIGITS else k) for k in KINDS)])
