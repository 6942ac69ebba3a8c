"""The number of images, found by the prompt or by the pixels, or ambiguous."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from otprune import OTPruneError, UnsupportedError
from otprune.engines.transformers.grouping import image_lengths


# Placeholders are 9; 1 stands for text, 2 for a tile's name, 3 for an overview, 4 for a break.
@pytest.mark.parametrize(
    ("grouping", "rows", "entries", "expected"),
    [
        ("entry", [[1, 9, 9, 1], [9, 1, 9, 1]], [2, 0, 1, 1], [2, 1, 1]),
        ("run", [[9, 9, 9, 9, 1, 9, 9], [1, 1, 1, 1, 1, 9, 9]], [2] * 4, [4, 2, 2]),
        ("alone", [[9, 9, 1, 9, 9], [1, 1, 1, 9, 9]], [2, 2, 2], [2, 2, 2]),
        ("closed", [[2, 9, 2, 9, 3, 9, 1, 3, 9], [1] * 9], [4], [3, 1]),
        ("closed", [[3, 9, 1, 2, 9, 9, 3, 9, 1]], [4], [1, 3]),
        ("opened", [[5, 9, 5, 9, 6, 9, 9, 1, 5, 9], [1] * 10], [5], [1, 3, 1]),
        ("joined", [[9, 9, 4, 9, 9, 4, 1, 9, 9, 4]], [2, 2, 2], [4, 2]),
        ("run", [[1, 1], [1, 1]], [], []),
        ("ended", [[1, 1], [1, 1]], [], []),
    ],
)
def test_images_by_the_prompt(
    grouping: str, rows: list[list[int]], entries: list[int], expected: list[int]
) -> None:
    ids = torch.tensor(rows)
    assert image_lengths(grouping, entries, ids, ids == 9) == expected


# 7 ends an image, 8 begins one, 2 to 6 are names of tiles.
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([8, 2, 9, 9, 3, 9, 9, 4, 9, 7, 8, 9, 7], [5, 1]),  # two tiles, an overview; another image
        ([8, 2, 9, 3, 9, 4, 9, 7], [3]),  # without an overview, or one of the tiles' size
        ([8, 9, 9, 7, 8, 9, 9, 7], [2, 2]),  # marked, of one tile each
        ([1, 9, 1, 9, 1, 9, 1], [1, 1, 1]),  # the same word between images is no name
        ([1, 9, 9, 2, 9, 9, 9, 3, 9, 1], [2, 3, 1]),  # tiles have one size
        ([1, 9, 9, 2, 9], [2, 1]),  # one tile is not cut from an image
        ([9, 9, 1, 1, 9, 9], [2, 2]),  # at both ends of the row
    ],
)
def test_named_tiles(row: list[int], expected: list[int]) -> None:
    ids = torch.tensor([row])
    runs = [len(run) for run in "".join("x" if i == 9 else " " for i in row).split()]
    assert image_lengths("ended", runs, ids, ids == 9) == expected


def test_two_named_runs_of_one_size_are_ambiguous() -> None:
    ids = torch.tensor([[1, 9, 9, 2, 9, 9, 1]])
    with pytest.raises(UnsupportedError, match="two images or two tiles"):
        image_lengths("ended", [2, 2], ids, ids == 9)


@pytest.mark.parametrize("grouping", ["alone", "ended"])
def test_adjacent_tiles_are_refused(grouping: str) -> None:
    ids = torch.tensor([[1, 9, 9, 1, 1, 9, 9, 9, 9]])
    with pytest.raises(UnsupportedError, match="4 placeholders without anything between"):
        image_lengths(grouping, [2, 2, 2], ids, ids == 9)


@pytest.mark.parametrize("grouping", ["alone", "ended"])
def test_an_image_lies_in_one_run(grouping: str) -> None:
    ids = torch.tensor([[9, 9, 1, 9, 9, 9]])
    with pytest.raises(OTPruneError, match="image of 3 tokens does not fit a run of 2"):
        image_lengths(grouping, [3, 2], ids, ids == 9)


def photo(seed: int, side: int = 64) -> Tensor:
    """`(3, side, side)`, smooth like a photograph."""
    coarse = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return interpolate(coarse, size=(side, side), mode="bicubic")[0]


def resized(image: Tensor, height: int, width: int) -> Tensor:
    return interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)[0]


def cut(image: Tensor, rows: int, columns: int, side: int = 32) -> list[Tensor]:
    """Tiles and an overview, as processors return them."""
    large = resized(image, rows * side, columns * side)
    tiles = [
        large[:, r * side : (r + 1) * side, c * side : (c + 1) * side]
        for r in range(rows)
        for c in range(columns)
    ]
    return [*tiles, resized(image, side, side)]


def test_adjacent_tiles_with_an_overview_are_one_image() -> None:
    one, two = cut(photo(0), 2, 2), cut(photo(1), 1, 3)
    single, other = resized(photo(2), 32, 32), resized(photo(3), 32, 32)
    pixels = torch.stack([*one, single, *two, other, single])
    ids = torch.tensor([[1, *[9] * 20, 1, *[9] * 4]])
    lengths = image_lengths("overview", [2] * 12, ids, ids == 9, pixels)
    assert lengths == [10, 2, 8, 2, 2]


def test_adjacent_tiles_without_an_overview_are_images() -> None:
    page = resized(photo(0), 32, 32)
    pixels = torch.stack([page, page, resized(photo(1), 32, 32), page])
    ids = torch.tensor([[1, *[9] * 8]])
    assert image_lengths("overview", [2] * 4, ids, ids == 9, pixels) == [2] * 4


def quartered(image: Tensor) -> list[Tensor]:
    """Four quarters and the whole image, each resized to a longest edge of 40."""
    height, width = image.shape[1:]
    h, w = height // 2, width // 2
    parts = [image[:, :h, :w], image[:, :h, w:], image[:, h:, :w], image[:, h:, w:], image]
    sizes = [
        (x.shape[1] * 40 // max(x.shape[1:]), x.shape[2] * 40 // max(x.shape[1:])) for x in parts
    ]
    return [resized(x, *size) for x, size in zip(parts, sizes, strict=True)]


def padded(rows: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """`(B, n, 3, 40, 40)` pixels and their mask."""
    pixels = torch.zeros(len(rows), max(map(len, rows)), 3, 40, 40)
    seen = torch.zeros(len(rows), max(map(len, rows)), 40, 40, dtype=torch.long)
    for b, row in enumerate(rows):
        for i, tile in enumerate(row):
            pixels[b, i, :, : tile.shape[1], : tile.shape[2]] = tile
            seen[b, i, : tile.shape[1], : tile.shape[2]] = 1
    return pixels, seen


def touching(n: int) -> list[int]:
    """n runs of two placeholders, with a mark before and after each."""
    return [4, *[token for _ in range(n) for token in (9, 9, 4)]]


def test_quarters_and_their_overview_are_one_image() -> None:
    wide, tall = photo(0, 90)[:, :51], photo(1, 81)[:, :, :60]
    singles = [quartered(photo(seed))[-1] for seed in range(5)]
    rows = [quartered(wide) + quartered(tall), singles]
    pixels, seen = padded(rows)
    ids = torch.tensor([touching(10), [1] * 15 + touching(5)])
    lengths = image_lengths("quarters", [20, 10], ids, ids == 9, pixels, seen)
    assert lengths == [10, 10, 2, 2, 2, 2, 2]
    ids = torch.tensor([[*touching(2), 1, 1, *touching(1)]])
    pixels, seen = padded([singles[:3]])
    assert image_lengths("quarters", [6], ids, ids == 9, pixels, seen) == [2, 2, 2]


def test_adjacent_single_tile_images_are_separate() -> None:
    pixels, seen = padded([[quartered(photo(seed))[-1] for seed in range(2)]])
    ids = torch.tensor([[1, 9, 9, 9, 9, 1]])
    assert image_lengths("quarters", [4], ids, ids == 9, pixels, seen) == [2, 2]


def test_entries_of_stacked_pixels() -> None:
    ids = torch.tensor([[9] * 12])
    lengths = image_lengths("stacked", [2] * 6, ids, ids == 9, torch.zeros(2, 3, 3, 8, 8))
    assert lengths == [6, 6]


@pytest.mark.parametrize("grouping", ["overview", "quarters", "stacked"])
def test_groupings_by_pixels_need_pixels(grouping: str) -> None:
    ids = torch.tensor([[9] * 4])
    with pytest.raises(UnsupportedError, match="pass the pixels"):
        image_lengths(grouping, [2, 2], ids, ids == 9)
