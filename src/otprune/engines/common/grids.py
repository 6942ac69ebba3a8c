"""Which tokens of a vision encoder's sequences show what: grids, blocks, windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Which tokens of an encoder's sequences show what.

    units: for each attention set (image, tile or frame) `(U, g)` int64: the indices of the tokens
        of each block that the model combines behind the encoder, in the order of its output. g is 1
        where it combines none. Indices count through all sequences, `row * n + column`.
    special: `(S,)` int64, likewise: special tokens, which always stay. The class token is the first
        of a sequence, registers follow it. All others are padding.
    places: for each set `(U, 2)` int64: row and column of each block on the grid of blocks.
    """

    units: list[Tensor]
    special: Tensor
    places: list[Tensor]


@lru_cache(maxsize=64)
def blocks(height: int, width: int, side: int) -> Tensor:
    """`(U, side ** 2)`: a grid's tokens in raster order, by block; single tokens if none fit."""
    if height % side or width % side:
        side = 1
    grid = torch.arange(height * width).view(height // side, side, width // side, side)
    return grid.transpose(1, 2).reshape(-1, side * side)


@lru_cache(maxsize=64)
def places_of(height: int, width: int, side: int) -> Tensor:
    """`(U, 2)`: row and column of each of `blocks`."""
    if height % side or width % side:
        side = 1
    rows, columns = torch.arange(height // side), torch.arange(width // side)
    return torch.cartesian_prod(rows, columns)


def packed(grids: Sequence[tuple[int, int]], side: int) -> list[Tensor]:
    """`blocks` of several grids, one behind the other in one sequence."""
    units, start = [], 0
    for height, width in grids:
        units.append(blocks(height, width, side) + start)
        start += height * width
    return units


def windows(height: int, width: int, side: int) -> Tensor:
    """`(height * width,)` int64: the window of `side` x `side` that each token of a grid is in.

    Windows are cut from the upper left; those at the right and the lower edge may be smaller. Their
    numbers rise in raster order.
    """
    rows, columns = torch.arange(height).unsqueeze(1), torch.arange(width)
    return ((rows // side) * width + columns // side).reshape(-1)


@lru_cache(maxsize=64)
def window_order(height: int, width: int, side: int) -> Tensor:
    """`(height * width,)` int64: a grid's tokens by windows, in raster order inside each."""
    return windows(height, width, side).argsort(stable=True)


def window_lengths(height: int, width: int, side: int) -> list[int]:
    """The number of tokens of each window, in the order of `window_order`."""
    lengths: list[int] = windows(height, width, side).unique(return_counts=True)[1].tolist()
    return lengths


def images_of(rows: int, height: int, width: int, side: int, first: int) -> Layout:
    """Sequences of one image each, all of one grid, behind `first` special tokens."""
    n = first + height * width
    units, ahead = blocks(height, width, side) + first, torch.arange(first)
    return Layout(
        [units + row * n for row in range(rows)],
        torch.cat([ahead + row * n for row in range(rows)]),
        [places_of(height, width, side)] * rows,
    )


def frames_of(grids: Sequence[tuple[int, int]], side: int, window: int | None) -> Layout:
    """Frames packed into one sequence, the tokens of each block next to each other.

    Args:
        grids: rows and columns of each frame, in tokens.
        side: of a block.
        window: side, in blocks, of the windows by which the sequence is ordered, though not the
            output; None if the sequence is in the order of the output.
    """
    units = [(height // side, width // side) for height, width in grids]
    place = torch.arange(sum(map(math.prod, units)))
    if window is not None:
        order, start = [], 0
        for grid in units:
            order.append(window_order(*grid, window) + start)
            start += math.prod(grid)
        place = torch.cat(order).argsort()
    tokens = place.unsqueeze(1) * side**2 + torch.arange(side**2)
    return Layout(
        list(tokens.split([math.prod(grid) for grid in units])),
        torch.arange(0),
        [places_of(*grid, side) for grid in grids],
    )
