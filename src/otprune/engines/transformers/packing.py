"""From the tokens of a vision encoder's sets (images, tiles or frames) to those of the images.

Models put tiles together, add rows, or make images smaller, in methods of their own. These are
called once more, with the tokens' numbers or with what is known of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from otprune.engines.transformers.sources import INSTEAD, SEEN, listed
from otprune.errors import UnsupportedError
from otprune.selectors import Cues


@dataclass(frozen=True)
class Seen:
    """The cues of the attention sets (images, tiles or frames) of one call of an encoder.

    sets: of each set, in the order of the encoder's output; of blocks, if the model combines tokens
        behind the encoder. In `grid` the tile is the number of the set.
    sizes: number of tokens of each set.
    lacking: why a cue is not among them, by name.
    origins: see `Staged`.
    images: of each image, where the model packs tiles into images and makes them smaller, so that
        one token is a mix of several: the same mix of their cues, and no grid.
    added: number of rows that the model adds at the end of each video.
    """

    sets: list[Cues]
    sizes: list[int]
    lacking: dict[str, str]
    origins: list[Tensor] | None = None
    images: list[Cues] | None = None
    added: int = 0


def packed_origins(function: Callable[..., Any], given: dict[str, Any]) -> list[Tensor] | None:
    """Which token of the encoder's output each token of the packed images is.

    The same method packs the tokens' numbers, with -1 for the rows that it adds.

    Args:
        function: packs tiles into images.
        given: its arguments by name; `image_features` are the tiles `(t, n, d)` of each image.

    Returns:
        `(m,)` int64 for each image, counted through all tiles; None if tokens are mixed (an image
        that was made smaller).
    """
    tiles = given["image_features"]
    sizes = [x.shape[:-1].numel() for x in tiles]
    number = torch.arange(sum(sizes), dtype=torch.float64)
    of_tiles = [
        part.view(*x.shape[:-1], 1) for part, x in zip(number.split(sizes), tiles, strict=True)
    ]
    given = given | {"image_features": of_tiles}
    if given.get("image_newline") is not None:
        given["image_newline"] = number.new_tensor([-1.0])
    packed = [x[:, 0] for x in function(**given)[0]]
    # Numbers between two tokens are mixtures.
    if not all(torch.equal(x, x.round()) for x in packed):
        return None
    return [x.long().to(tiles[0].device) for x in packed]


def packed(name: str, function: Callable[..., Any], given: dict[str, Any], seen: Seen) -> Seen:
    """The cues packed as their tokens are; see `packed_origins`. Rows that are added have 0."""
    tiles = given["image_features"]
    every = Cues.joined(seen.sets)
    made: dict[str, list[Tensor]] = {}
    for cue in every.names - {"grid"}:
        x = getattr(every, cue)
        flat = x.flatten(start_dim=1) if x.ndim > 1 else x.unsqueeze(1)
        parts = flat.split([tile.shape[:-1].numel() for tile in tiles])
        new: dict[str, Any] = {
            "image_features": [
                part.view(*tile.shape[:-1], -1) for part, tile in zip(parts, tiles, strict=True)
            ]
        }
        if given.get("image_newline") is not None:
            new["image_newline"] = flat.new_zeros(flat.shape[1])
        made[cue] = [one.view(len(one), *x.shape[1:]) for one in function(**given | new)[0]]
    images = [Cues(**{cue: made[cue][i] for cue in made}) for i in range(len(tiles))]
    lacking = dict(seen.lacking)
    if every.grid is not None:
        lacking["grid"] = (
            f"{name}: it resizes an image of this call, whose tokens have no one place"
        )
    return replace(seen, images=images, lacking=lacking)


def pooled(pool: Callable[..., Any], seen: Seen) -> Seen:
    """The cues pooled as the frames of videos are, each to a square, with a row behind each video.

    Pooling is linear: a token gets the mix of cues that its features are the mix of.
    """
    frames, every = len(seen.sets), Cues.joined(seen.sets)
    number = pool(torch.zeros(1, seen.sizes[0], 1)).shape[1]
    made: dict[str, Tensor] = {}
    for cue in every.names - {"grid"}:
        x = getattr(every, cue)
        made[cue] = pool(x.reshape(frames, seen.sizes[0], -1)).view(frames, number, *x.shape[1:])
    if every.grid is not None:
        side = torch.arange(math.isqrt(number), device=every.grid.device)
        made["grid"] = torch.cartesian_prod(torch.arange(frames).to(side), side, side)
        made["grid"] = made["grid"].view(frames, number, 3)
    sets = [Cues(**{cue: x[i] for cue, x in made.items()}) for i in range(frames)]
    return replace(seen, sets=sets, sizes=[number] * frames, added=1)


def in_order(sets: Sequence[int], images: Sequence[int]) -> list[range]:
    """Which sets each image consists of, by their lengths; none if they do not fit.

    Args:
        sets: number of tokens of each set.
        images: of each image, of which the first ones consist of all the sets.
    """
    made: list[range] = []
    start = total = 0
    for i, size in enumerate(sets):
        if len(made) == len(images):
            return []
        total += size
        if total == images[len(made)]:
            made.append(range(start, i + 1))
            start, total = i + 1, 0
    return [] if start < len(sets) else made


def cues_of_call(
    model: Any, calls: Sequence[Seen], images: Sequence[Tensor], needs: Collection[str]
) -> list[Cues]:
    """The cues of each image's tokens, the same for all images; without those not known of some.

    Args:
        calls: what each call of the encoder saw.
        images: `(m, d)`, the tokens of each image, in the order in which they were encoded.
        needs: names of the cues that are needed.

    Raises:
        UnsupportedError: a needed one is not known; says why.
    """
    needed = SEEN & set(needs)
    lacking = {name: why for call in calls for name, why in call.lacking.items()}
    for name in sorted(needed & set(lacking)):
        raise UnsupportedError(f"{name} of {lacking[name]}: {INSTEAD}")
    found = cues_of_images(calls, images)
    if found is None and needed:
        raise UnsupportedError(
            f"{type(model).__name__} mixes the tokens of its vision encoder in this call (it pools "
            f"or resizes them), so {listed(needed)} of its own tokens are not known: {INSTEAD}"
        )
    if found is None:
        return [Cues()] * len(images)
    return [cues.only(cues.names - set(lacking)) for cues in found]


def cues_of_images(calls: Sequence[Seen], images: Sequence[Tensor]) -> list[Cues] | None:
    """The cues of each image's tokens; None if it is not known which tokens show what.

    Args:
        calls: what each call of the encoder saw.
        images: `(m, d)`, the tokens of each image, in the order in which they were encoded.
    """
    found: list[Cues] = []
    for call in calls:
        more = _images_of(call, [len(x) for x in images[len(found) :]])
        if not more:
            return None
        found += more
    if len(found) != len(images):
        return None
    # The projector may lie on another device than the encoder.
    return [
        cues.each(partial(torch.Tensor.to, device=x.device))
        for cues, x in zip(found, images, strict=True)
    ]


def _images_of(call: Seen, lengths: list[int]) -> list[Cues]:
    """The cues of the first images, of `lengths` tokens; none if the call's do not fit them."""
    if call.images is not None:
        sizes = [next((len(x) for x in cues.given if x is not None), 0) for cues in call.images]
        return call.images if sizes == lengths[: len(sizes)] else []
    origins = call.origins
    if origins is None:
        starts = [sum(call.sizes[:i]) for i in range(len(call.sizes) + 1)]
        behind = torch.full((call.added,), -1)
        origins = [
            torch.cat([torch.arange(starts[some.start], starts[some.stop]), behind])
            for some in in_order(call.sizes, [length - call.added for length in lengths])
        ]
    if [len(x) for x in origins] != lengths[: len(origins)]:
        return []
    every = Cues.joined(call.sets)
    return [_shown(every, x) for x in origins]


def _shown(cues: Cues, origin: Tensor) -> Cues:
    """The cues of one image, whose first tile is 0.

    origin: `(m,)`, the token of `cues` that each of its tokens is; -1 for none.
    """

    def take(x: Tensor) -> Tensor:
        at = origin.to(x.device)
        taken = x[at.clamp(min=0)]
        taken[at < 0] = 0 if x.is_floating_point() else -1
        return taken

    made = cues.each(take)
    if made.grid is not None:
        tile = made.grid[:, 0]
        inside = tile >= 0
        first = tile[inside].min() if bool(inside.any()) else 0
        made.grid[:, 0] = torch.where(inside, tile - first, tile)
    return made
