"""Selection only: encode a photograph and choose among its tokens, without a question."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from otprune.asking.answers import check, only
from otprune.asking.drawing import Grid
from otprune.asking.grid import grid_of
from otprune.asking.images import Photo
from otprune.asking.models import load, prompt, quiet
from otprune.asking.stages import InEncoder, check_stage, in_encoder, staged_selection
from otprune.encoders import vit_s
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.encoded import encode_call
from otprune.engines.transformers.features import cells_of_images
from otprune.engines.transformers.selection import choose
from otprune.engines.transformers.tower import Staged, staged
from otprune.errors import OTPruneError
from otprune.measures.cells import Cells
from otprune.selectors import Selection, Selector


class Encoded(NamedTuple):
    """A photograph's tokens.

    Attributes:
        tokens: `(m, d)`.
        calls: what a selection inside the encoder kept; empty without one.
        cells: its plan for the tokens; None without one, or where the model mixed them afterwards.
    """

    tokens: Tensor
    calls: Sequence[Staged] = ()
    cells: Cells | None = None


class Encoder(NamedTuple):
    """An encoder of photographs.

    Attributes:
        check: raises errors that can be detected before anything is encoded; the flag says whether
            the grid is requested.
        encode: returns the tokens, with a selection inside the encoder or (None) without one.
        grid: the grid of the tokens.
        stage: the selection that was asked for, or None.
    """

    name: str
    check: Callable[[Image, bool], None]
    encode: Callable[[Image, EncoderStage | None], Encoded]
    grid: Callable[[Image], Grid]
    stage: EncoderStage | None = None


@dataclass(frozen=True)
class Selected:
    """What was kept of one photograph.

    Attributes:
        note: which of several images in the file it is; empty for one image.
        before: its visual tokens.
        encoder_seconds: time to encode it, once.
        selector_seconds: median time to select among the encoder's tokens.
        encoder: the selection inside the encoder; None without one.
    """

    photo: Photo
    note: str
    before: int
    encoder_seconds: float
    selector_seconds: float
    selection: Selection
    grid: Grid | None
    encoder: InEncoder | None = None


def select(
    encoder: Encoder,
    photo: Photo,
    image: Image,
    note: str,
    selector: Selector,
    *,
    repeats: int,
    with_grid: bool,
    doing: Callable[[str], None],
) -> Selected:
    """Encode and select."""
    doing(f"{photo.short}: encoding")
    grid = encoder.grid(image) if with_grid else None
    start = time.perf_counter()
    made = encoder.encode(image, encoder.stage)
    encoding = time.perf_counter() - start
    doing(f"{photo.short}: selecting")
    choices = [
        choose(selector, [made.tokens], [0], merge=False, cells=[made.cells])[0]
        for _ in range(repeats + 1)
    ]
    doing(f"{photo.short}: measuring distances")
    if encoder.stage is None:
        selection = selector.explain(made.tokens)
    else:
        whole = encoder.encode(image, None).tokens
        kept = choices[0].made
        selection = staged_selection(whole, made.tokens, kept.indices, kept.masses)
    return Selected(
        photo=photo,
        note=note,
        before=made.tokens.shape[0],
        encoder_seconds=encoding,
        selector_seconds=statistics.median(choice.seconds for choice in choices[1:]),
        selection=selection,
        grid=grid,
        encoder=in_encoder(made.calls),
    )


def by_model(
    name: str | None,
    tokens: int | None,
    device: str,
    dtype: str,
    trust_remote_code: bool,
    stage: EncoderStage | None = None,
) -> Encoder:
    """A model's own encoder and projector; its language model is not run.

    Raises:
        UnsupportedError, OTPruneError: the model or its encoder cannot be pruned.
    """
    loaded = load(name, tokens, device, dtype, trust_remote_code)
    check_stage(loaded.model, stage)

    def encode(image: Image, stage: EncoderStage | None) -> Encoded:
        with torch.no_grad():
            call = encode_call(loaded.model, prompt(loaded, image, "?"), stage)
        tokens = only(loaded, call.visual).features
        if not call.calls:
            return Encoded(tokens)
        (cells,) = cells_of_images(call.calls, call.images.values())
        return Encoded(tokens, call.calls, cells)

    def grid(image: Image) -> Grid:
        inputs = prompt(loaded, image, "?")
        return grid_of(loaded.name, loaded.model, loaded.processor, inputs, image.size)

    def look(image: Image, with_grid: bool) -> None:
        check(loaded, image, "?", with_grid)

    return Encoder(loaded.name, look, encode, grid, stage)


def by_vit_s(size: int, stage: EncoderStage | None = None) -> Encoder:
    """The pretrained ViT-S/14 (`otprune fetch vit-s` gets it), on the CPU.

    Raises:
        OTPruneError: no such size, or the stage is behind the layer that gives the tokens.
    """
    quiet()
    if size not in vit_s.SIZES:
        raise OTPruneError(f"--size {size}: expected one of {', '.join(map(str, vit_s.SIZES))}")
    encoder = vit_s.load()
    side = size // vit_s.PATCH
    check_stage(encoder.model, stage)
    if stage is not None:
        layers = int(encoder.model.config.num_hidden_layers)
        if not stage.layer(layers) < vit_s.LAYER:
            raise OTPruneError(
                f"--encoder-after {stage.after}: vit-s gives its tokens after layer {vit_s.LAYER} "
                f"of {layers}, and a selection behind that has no effect: give a smaller one"
            )

    def encode(image: Image, stage: EncoderStage | None) -> Encoded:
        if stage is None:
            return Encoded(encoder.tokens(image, size))
        with staged(encoder.model, stage) as calls:
            tokens = encoder.tokens(image, size)
        return Encoded(tokens, calls, calls[0].cells[0])

    return Encoder("vit-s", lambda *_: None, encode, lambda _: Grid(side, side), stage)
