"""Pruning inside a vision encoder: where, how much, by which method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor

from otprune.engines.common.selection import timed_call
from otprune.errors import KeepError, OTPruneError
from otprune.keep import Keep
from otprune.measures.cells import Cells
from otprune.selectors import DPPPrune, Selector, check_selector
from otprune.selectors.gate import check_cues


@dataclass(frozen=True)
class EncoderStage:
    """Selection inside the vision encoder: later layers work on the kept tokens alone.

    Behind some whole layers the tokens of each image are selected in the next one, between its
    attention, which is of all tokens, and its MLP. Only the kept ones go through this MLP and the
    remaining layers. There each kept key has the logarithm of its mass added to its attention
    logits, its mass being the number of tokens in its cell (proportional attention, Bolya et al.,
    "Token merging: your ViT but faster", ICLR 2023, which also reduces tokens between attention and
    MLP; here tokens are selected, not merged). Special tokens of the encoder (class token,
    registers) always stay, with mass 1. Between layers every dropped token takes the feature of the
    kept token that it belongs to, so whatever reads the encoder finds its grid whole.

    A budget is that of one attention set of the encoder: an image, a tile of a tiled image, or a
    frame of a video. Where the model combines blocks of s x s tokens behind the encoder, blocks are
    kept or dropped as a whole.

    With the default method and layer the embedded model keeps 99% of its answers at keep 0.35, and
    97% in every kind of question; at keep 0.5 also after=0.2, for less work (docs/results/encoder).
    `TransportPrune` follows the encoder's features more closely than `DPPPrune` behind half of the
    layers, and takes two to three times as long.

        stage = otprune.EncoderStage(keep=0.35)
        with otprune.prune(model, otprune.TransportPrune(0.1), encoder=stage):
            model.generate(**inputs)

    Attributes:
        keep: ratio in (0, 1] as a float or number of tokens as an int (of blocks, where tokens are
            combined), for `DPPPrune`. None if `selector` is given.
        after: number of whole layers before the selection, as an int, or their share of the
            encoder's layers in [0, 1), as a float.
        selector: another method, with its own keep. It sees the hidden states that the attention of
            the next layer has added to (the mean of a block). Its keep must not be a rule.
        mass: whether kept keys carry their mass in the remaining layers.

    Raises:
        KeepError: `keep` is no ratio or number, or is a rule.
        OTPruneError: `keep` and `selector` are both given or both missing, or another argument is
            wrong.
        WeightError, UnsupportedError: the selector needs weights or another cue.
    """

    keep: Keep | None = None
    after: float | int = 0.6
    selector: Selector | None = None
    mass: bool = True

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.selector is None):
            raise OTPruneError(
                "an encoder stage needs keep= (for DPPPrune) or selector=, one of the two"
            )
        if self.selector is not None:
            check_selector(self.selector)
            check_cues(self.selector, [], "inside an encoder")
        if not isinstance(self.method.keep, (float, int)):
            raise KeepError(
                f"keep={self.method.keep!r} in an encoder stage: expected a ratio or a number of "
                "tokens, since the images of a batch go through a layer with equally many tokens"
            )
        _check_after(self.after)
        if not isinstance(self.mass, bool):
            raise OTPruneError(f"mass={self.mass!r} in an encoder stage: expected True or False")

    @property
    def method(self) -> Selector:
        """The selector that is used."""
        return DPPPrune(self.keep) if self.selector is None else self.selector  # type: ignore[arg-type]

    def layer(self, layers: int) -> int:
        """Index of the layer of the selection, in an encoder with so many layers.

        Raises:
            OTPruneError: the encoder has no such layer.
        """
        if isinstance(self.after, Integral):
            first = int(self.after)
        else:
            first = min(round(float(self.after) * layers), layers - 1)
        if not first < layers:
            raise OTPruneError(
                f"after={self.after} layers, and the encoder has {layers}: give a smaller number, "
                "or a share in [0, 1) as a float"
            )
        return first

    @torch.no_grad()
    def cells(self, sets: Sequence[Tensor]) -> tuple[list[Cells], float]:
        """The plan of each set of tokens `(m_i, d)`, and the seconds that it took."""
        return timed_call(lambda: self.method.cells_each(sets), sets[0].device)


def stage_of(keep: Keep | None = None, after: float | int | None = None) -> EncoderStage | None:
    """The stage that the plain settings `encoder_keep` and `encoder_after` ask for.

    The command line and lmms-eval read theirs with it.

    Args:
        keep, after: as for `EncoderStage`; `after` of None is its default.

    Returns:
        None without `keep`.

    Raises:
        KeepError: `keep` is no ratio or number.
        OTPruneError: `after` is wrong, or given without `keep`.
    """
    if keep is None and after is not None:
        raise OTPruneError(
            f"encoder_after={after!r} says where the encoder drops tokens, and encoder_keep is "
            "missing: give both, or leave encoder_after out"
        )
    if keep is None:
        return None
    try:
        return EncoderStage(keep) if after is None else EncoderStage(keep, after)
    except OTPruneError as error:
        raise type(error)(f"inside the encoder: {error}") from None


def _check_after(after: object) -> None:
    fits = not isinstance(after, bool) and (
        (isinstance(after, Integral) and int(after) >= 0)
        or (isinstance(after, Real) and not isinstance(after, Integral) and 0 <= float(after) < 1)
    )
    if not fits:
        raise OTPruneError(
            f"after={after!r}: expected a number of layers >= 0 as an int, or a share of them in "
            "[0, 1) as a float"
        )
