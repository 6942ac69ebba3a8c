"""What stages inside the vision encoder and the language model kept of one photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from otprune.engines.common.layer_stage import LayerStage
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.deep import check_layers as check_decoder
from otprune.engines.transformers.memory import LayerCut
from otprune.engines.transformers.settings import Settings
from otprune.engines.transformers.tower import Staged
from otprune.engines.transformers.tower import check_stage as check_tower
from otprune.errors import OTPruneError
from otprune.selectors import Selection
from otprune.selectors.preset import Pruning
from otprune.selectors.results import measured


@dataclass(frozen=True)
class InEncoder:
    """The encoder's own selection.

    Attributes:
        before, after: tokens of all tiles together; of blocks, if the model combines tokens behind
            the encoder.
        tiles: number of tiles; 1 for an image that is not cut.
        layer, layers: layers before the selection, and all layers.
        seconds: time of the selection.
    """

    before: int
    after: int
    tiles: int
    layer: int
    layers: int
    seconds: float

    def __str__(self) -> str:
        tiles = f" in {self.tiles} tiles" if self.tiles > 1 else ""
        where = f"in layer {self.layer + 1} of {self.layers}"
        return f"{self.before} -> {self.after} tokens{tiles} {where}"


@dataclass(frozen=True)
class InLayers:
    """What one cut inside the language model kept.

    Attributes:
        layer: index of the first layer behind it.
        visual, prompt: visual tokens, and all tokens of the prompt, that this layer sees.
    """

    layer: int
    visual: int
    prompt: int


def in_layers(cuts: Sequence[LayerCut]) -> list[InLayers]:
    """The cuts of a call with one prompt."""
    return [InLayers(cut.layer, int(cut.kept[0]), cut.columns.shape[1]) for cut in cuts]


def check_layers(model: Any, layers: LayerStage | None, how: Pruning) -> None:
    """Refuse what a stage inside the language model does not go with, before a photograph.

    Raises:
        UnsupportedError, OTPruneError: as `otprune.prune`.
    """
    if layers is None:
        return
    try:
        Settings(**how, layers=layers)
        check_decoder(model, layers)
    except OTPruneError as error:
        raise type(error)(f"--layer-rank: {error}") from None


def check_stage(model: Any, stage: EncoderStage | None) -> None:
    """Refuse a model whose encoder cannot be pruned, before a photograph is encoded.

    Raises:
        UnsupportedError, OTPruneError: as `otprune.prune`.
    """
    if stage is None:
        return
    try:
        check_tower(model, stage)
    except OTPruneError as error:
        raise type(error)(f"--encoder-keep: {error}") from None


def in_encoder(calls: Sequence[Staged]) -> InEncoder | None:
    """Of the calls of an encoder for one photograph; None without a stage."""
    if not calls:
        return None
    cells = [one for call in calls for one in call.cells]
    return InEncoder(
        before=sum(len(one.cell) for one in cells),
        after=sum(len(one.kept) for one in cells),
        tiles=len(cells),
        layer=calls[0].layer,
        layers=calls[0].layers,
        seconds=sum(call.seconds for call in calls),
    )


def staged_selection(whole: Tensor, tokens: Tensor, indices: Tensor, masses: Tensor) -> Selection:
    """How far the kept tokens are from all tokens of an encoder without a selection inside it.

    There is no certificate: the method chose among the encoder's kept tokens only.

    Args:
        whole: `(m, d)`, the tokens without the selection inside the encoder.
        tokens: `(m, d)`, the tokens with it.
        indices, masses: what was kept of `tokens`.
    """
    full, kept = (x.detach().cpu().double() for x in (whole, tokens[indices]))
    return measured(full, None, indices, masses, None, None, features=kept)
