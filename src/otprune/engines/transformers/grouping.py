"""Which tokens belong to one image if an encoder returns tiles, pages or frames.

"k tokens an image" means the same in every family: the tiles of an image are grouped together. The
end of an image is found from the text that the family's processor writes into the prompt, or from
the pixels. If neither shows it, the call is refused: two images are never treated as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from otprune.errors import OTPruneError, UnsupportedError

Grouping = Literal[
    "entry",
    "run",
    "alone",
    "overview",
    "quarters",
    "stacked",
    "opened",
    "closed",
    "ended",
    "joined",
]
POOLED = 4  # a tile is compared with its part of an overview as 4 x 4 mean colours

Run = tuple[int, int]  # first column, length


def image_lengths(
    grouping: Grouping,
    entries: list[int],
    ids: Tensor,
    at: Tensor,
    pixels: Tensor | None = None,
    seen: Tensor | None = None,
) -> list[int]:
    """Tokens of each image, in prompt order.

    Args:
        grouping: what makes one image, see `Family`.
        entries: tokens of each entry of the encoder's output, in prompt order.
        ids: `(B, S)` prompt.
        at: `(B, S)` bool, its placeholders, `sum(entries)` of them.
        pixels: what the entries were made of, if the call brings it; needed by "overview",
            "quarters" `(..., 3, H, W)` and "stacked" `(N, T, ...)`.
        seen: `(..., H, W)`, 0 where `pixels` are padding.

    Raises:
        UnsupportedError: the number of images cannot be determined.
        OTPruneError: placeholders and tiles do not match.
    """
    if grouping == "entry":
        return [n for n in entries if n]
    if grouping == "stacked":
        return _by_stack(entries, pixels)
    rows = list(zip(_runs(at), ids.tolist(), strict=True))
    if grouping in ("alone", "ended"):
        _check_alone(entries, [run for runs, _ in rows for run in runs])
    if grouping in ("overview", "quarters"):
        return _by_overview(grouping, rows, _tiles(pixels, seen))
    return [length for runs, row in rows for length in _BY_TEXT[grouping](runs, row)]


def _runs(at: Tensor) -> Iterator[list[Run]]:
    """The contiguous runs of placeholders of each sequence."""
    for mask in at.tolist():
        runs, column = [], 0
        for inside, group in groupby(mask):
            length = len(list(group))
            if inside:
                runs.append((column, length))
            column += length
        yield runs


# -- by the text of the prompt ---------------------------------------------------------------------


def _by_run(runs: list[Run], row: list[int]) -> list[int]:
    return [length for _, length in runs]


def _by_first(runs: list[Run], row: list[int]) -> list[int]:
    """An image begins at each run that has the same token in front as the sequence's first run."""
    before = [row[start - 1] if start else None for start, _ in runs]
    lengths: list[int] = []
    for (_, length), token in zip(runs, before, strict=True):
        if token == before[0]:
            lengths.append(length)
        else:
            lengths[-1] += length
    return lengths


def _by_last(runs: list[Run], row: list[int]) -> list[int]:
    """An image ends at each run that has the same token in front as the sequence's last run."""
    before = [row[start - 1] if start else None for start, _ in runs]
    lengths, total = [], 0
    for (_, length), token in zip(runs, before, strict=True):
        total += length
        if token == before[-1]:
            lengths.append(total)
            total = 0
    return lengths


def _chains(runs: list[Run]) -> list[list[Run]]:
    """Groups of runs with exactly one token between neighbours."""
    chains: list[list[Run]] = []
    for run in runs:
        if chains and run[0] == sum(chains[-1][-1]) + 1:
            chains[-1].append(run)
        else:
            chains.append([run])
    return chains


def _by_gap(runs: list[Run], row: list[int]) -> list[int]:
    return [sum(length for _, length in chain) for chain in _chains(runs)]


def _by_names(runs: list[Run], row: list[int]) -> list[int]:
    """A chain is one image if the tokens in front of its tiles differ and all tiles have one size.

    The last tile may have another size if at least two come before it: it is the overview.
    """
    lengths = []
    for chain in _chains(runs):
        sizes = [length for _, length in chain]
        names = {row[start - 1] if start else None for start, _ in chain}
        alike = len(set(sizes if len(chain) == 2 else sizes[:-1])) == 1
        if len(chain) == 1 or len(names) < len(chain) or not alike:
            lengths += sizes
        elif len(chain) == 2:
            raise UnsupportedError(
                "two runs of placeholders of one size, one token apart, may be two images or two "
                "tiles of one: put more text between images, or keep the overview (use_thumbnail)"
            )
        else:
            lengths.append(sum(sizes))
    return lengths


_BY_TEXT: dict[str, Callable[[list[Run], list[int]], list[int]]] = {
    "run": _by_run,
    "alone": _by_run,
    "opened": _by_first,
    "closed": _by_last,
    "ended": _by_names,
    "joined": _by_gap,
}


def _check_alone(entries: list[int], runs: list[Run]) -> None:
    """Refuse runs of several tiles: they may be tiles of one image, or several images."""
    rest = iter(entries)
    for _, length in runs:
        first = next(rest, 0)
        if first < length:
            raise UnsupportedError(
                f"{length} placeholders without anything between them stand for several tiles, "
                "which may be one image's or an image each: put text between images, and have the "
                "processor mark the tiles of an image, or not split it"
            )
        if first > length:
            raise OTPruneError(
                f"an image of {first} tokens does not fit a run of {length} placeholders: order "
                "the images as their placeholders, sequence by sequence"
            )


# -- by the pixels ---------------------------------------------------------------------------------


def _needed(pixels: Tensor | None) -> Tensor:
    if pixels is None:
        raise UnsupportedError(
            "how many images there are cannot be told from encoder outputs: pass the pixels that "
            "the processor returned instead of mm_encoder_outputs"
        )
    return pixels


def _by_stack(entries: list[int], pixels: Tensor | None) -> list[int]:
    """Each image or video has as many entries as the length of the second axis of the pixels."""
    size = _needed(pixels).shape[1]
    return [sum(entries[i : i + size]) for i in range(0, len(entries), size)]


def _tiles(pixels: Tensor | None, seen: Tensor | None) -> list[Tensor]:
    """Each tile without padding, `(3, h, w)`; of `(B, n, 3, H, W)`, tiles of zeros are skipped."""
    given = _needed(pixels)
    flat = list(given.flatten(end_dim=-4)) if given.ndim > 4 else list(given)
    masks = [None] * len(flat) if seen is None else list(seen.flatten(end_dim=-3))
    tiles = []
    for tile, mask in zip(flat, masks, strict=True):
        if given.ndim > 4 and not bool(tile.any()):
            continue
        if mask is not None:
            tile = tile[:, : int(mask.any(dim=1).sum()), : int(mask.any(dim=0).sum())]
        tiles.append(tile.float())
    return tiles


def _by_overview(
    grouping: str, rows: list[tuple[list[Run], list[int]]], tiles: list[Tensor]
) -> list[int]:
    """Adjacent tiles are one image if the last shows the others, arranged in a grid."""
    total = sum(length for runs, _ in rows for _, length in runs)
    if not tiles or total % len(tiles):
        raise OTPruneError(f"{total} placeholders for {len(tiles)} tiles: pass inputs unabridged")
    size = total // len(tiles)
    lengths, rest = [], iter(tiles)
    for runs, _ in rows:
        chains = _chains(runs) if grouping == "quarters" else [[run] for run in runs]
        for chain in chains:
            touching = [next(rest) for _, length in chain for _ in range(length // size)]
            lengths += [n * size for n in _images(touching, grouping == "quarters")]
    return lengths


def _images(tiles: list[Tensor], quarters: bool) -> list[int]:
    """Number of tiles of each image."""
    counts, start = [], 0
    while start < len(tiles):
        ends = [start + 4] if quarters else range(start + 2, len(tiles))
        end = next(
            (
                end
                for end in ends
                if end < len(tiles)
                and any(
                    _shows(tiles[end], tiles[start:end], rows)
                    for rows in ([2] if quarters else _divisors(end - start))
                )
            ),
            start,
        )
        counts.append(end + 1 - start)
        start = end + 1
    return counts


def _divisors(n: int) -> list[int]:
    return [rows for rows in range(1, n + 1) if n % rows == 0]


def _shows(whole: Tensor, tiles: list[Tensor], rows: int) -> bool:
    """Whether `whole` looks like the tiles arranged in `rows` rows, by mean colours."""
    columns = len(tiles) // rows
    parts = torch.stack([adaptive_avg_pool2d(tile, POOLED) for tile in tiles])
    grid = parts.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)
    mosaic = grid.reshape(len(whole), rows * POOLED, columns * POOLED)
    shown = adaptive_avg_pool2d(whole, (rows * POOLED, columns * POOLED))
    spread = (shown - shown.mean(dim=(1, 2), keepdim=True)).square().mean()
    return bool((mosaic - shown).square().mean() <= 0.1 * spread + 1e-5)
