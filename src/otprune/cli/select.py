"""Selection only: encode a photograph and choose among its tokens, without a question."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from otprune.cli.ask import check, only
from otprune.cli.drawing import Grid
from otprune.cli.grid import grid_of
from otprune.cli.images import Photo
from otprune.cli.models import load, prompt, quiet
from otprune.cli.progress import Steps
from otprune.encoders import vit_s
from otprune.engines.transformers import visual_tokens
from otprune.errors import OTPruneError
from otprune.selectors import Selection, Selector


class Encoded(NamedTuple):
    """A photograph's tokens, `(m, d)`, and their grid (None if it was not requested)."""

    tokens: Tensor
    grid: Grid | None


class Encoder(NamedTuple):
    """An encoder of photographs.

    Attributes:
        check: raises errors that can be detected before anything is encoded.
        encode: returns the tokens. The flag of both says whether the grid is requested.
    """

    name: str
    check: Callable[[Image, bool], None]
    encode: Callable[[Image, bool], Encoded]


@dataclass(frozen=True)
class Selected:
    """What was kept of one photograph.

    Attributes:
        note: which of several images in the file it is; empty for one image.
        before: its visual tokens.
        encoder_seconds: time to encode it, once.
        selector_seconds: median time to select.
    """

    photo: Photo
    note: str
    before: int
    encoder_seconds: float
    selector_seconds: float
    selection: Selection
    grid: Grid | None


def select(
    encoder: Encoder,
    photo: Photo,
    image: Image,
    note: str,
    selector: Selector,
    *,
    repeats: int,
    with_grid: bool,
    steps: Steps,
) -> Selected:
    """Encode and select."""
    steps.doing(f"{photo.short}: encoding")
    start = time.perf_counter()
    tokens, grid = encoder.encode(image, with_grid)
    encoding = time.perf_counter() - start
    steps.doing(f"{photo.short}: selecting")
    times = [_timed(selector, tokens) for _ in range(repeats + 1)][1:]
    steps.doing(f"{photo.short}: measuring distances")
    return Selected(
        photo=photo,
        note=note,
        before=tokens.shape[0],
        encoder_seconds=encoding,
        selector_seconds=statistics.median(times),
        selection=selector.explain(tokens),
        grid=grid,
    )


def by_model(name: str | None, device: str, dtype: str, trust_remote_code: bool) -> Encoder:
    """A model's own encoder and projector; its language model is not run."""
    loaded = load(name, device, dtype, trust_remote_code)

    def encode(image: Image, with_grid: bool) -> Encoded:
        inputs = prompt(loaded, image, "?")
        grid = None
        if with_grid:
            grid = grid_of(loaded.name, loaded.model, loaded.processor, inputs, image.size)
        return Encoded(only(loaded, visual_tokens(loaded.model, inputs)).features, grid)

    return Encoder(loaded.name, lambda image, grid: check(loaded, image, "?", grid), encode)


def by_vit_s(size: int) -> Encoder:
    """The pretrained ViT-S/14 (`otprune fetch vit-s` gets it), on the CPU.

    Raises:
        OTPruneError: no such size.
    """
    quiet()
    if size not in vit_s.SIZES:
        raise OTPruneError(f"--size {size}: expected one of {', '.join(map(str, vit_s.SIZES))}")
    encoder = vit_s.load()
    side = size // vit_s.PATCH

    def encode(image: Image, with_grid: bool) -> Encoded:
        return Encoded(encoder.tokens(image, size), Grid(side, side) if with_grid else None)

    return Encoder("vit-s", lambda *_: None, encode)


def _timed(selector: Selector, tokens: Tensor) -> float:
    if tokens.is_cuda:
        torch.cuda.synchronize(tokens.device)
    start = time.perf_counter()
    selector.select(tokens)
    if tokens.is_cuda:
        torch.cuda.synchronize(tokens.device)
    return time.perf_counter() - start
