"""Pruning inside the language model: before which layers, how much, by which rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Literal, get_args

from otprune.errors import KeepError, OTPruneError
from otprune.keep import check_keep, count

Rank = Literal["fastv", "pyramiddrop", "dart", "vtw", "sparsevlm"]

# The settings that each work publishes for LLaVA-1.5-7B, of 32 layers and 576 tokens.
_AFTER: dict[Rank, tuple[float | int, ...]] = {
    "fastv": (2,),
    "pyramiddrop": (8 / 32, 16 / 32, 24 / 32),
    "dart": (2,),
    "vtw": (15 / 32,),
    "sparsevlm": (3 / 32, 7 / 32, 16 / 32),
}
_KEEP: dict[Rank, tuple[float, ...]] = {
    "fastv": (0.5,),
    "pyramiddrop": (0.5, 0.25, 0.125),
    "dart": (128 / 576,),
    "vtw": (),
    "sparsevlm": (300 / 576, 200 / 576, 118 / 576),
}


@dataclass(frozen=True)
class LayerStage:
    """Pruning inside the language model: its later layers run on fewer visual tokens.

    The layers in front of a cut see every token of the (shortened) prompt. Those behind it see its
    text and the visual tokens that rank highest, at their own positions. Their KV cache holds these
    tokens alone. A dropped token keeps the hidden state with which it came to the cut, so outputs
    of the model keep their shapes; the logits at its column have no meaning.

    Ranks, from the hidden states and the attention of the language model itself:

    - "fastv": the attention of the prompt's last token in the layer in front of the cut, mean over
      heads (Chen et al., "An image is worth 1/2 tokens after layer 2", ECCV 2024, arXiv
      2403.06764). Default: half of the tokens from layer 2 on.
    - "pyramiddrop": the attention that the prompt's last token would have in the first layer behind
      the cut (Xing et al., "PyramidDrop", CVPR 2025, arXiv 2410.17247; also the second stage of
      VScan, arXiv 2505.22654: `after=16, keep=1/3`). Default: 1/2, 1/4 and 1/8 of the tokens from
      1/4, 1/2 and 3/4 of the layers on. Departure: positions are preserved; the published code
      counts them anew at each cut.
    - "dart": tokens unlike a few pivots (Wen et al., "Stop looking for important tokens", EMNLP
      2025, arXiv 2502.11494). Pivots are the 4 visual tokens and the 4 text tokens behind the last
      image whose keys have the largest L1 norm in the layer in front of the cut. Each pivot in turn
      takes the tokens of smallest cosine to it, of the hidden states after the model's final norm.
      Default: 128 of 576 tokens from layer 2 on. Departures: visual pivots come first, each kind by
      norm (the published order is that of a Python set), and exactly `keep` tokens stay, of which
      the first pivots take one more each if the number is not divisible (published: 4 more).
    - "vtw": none; every visual token leaves at the cut (Lin et al., "Boosting MLLMs with visual
      tokens withdrawal", AAAI 2025, arXiv 2405.05803). Default: layer 15 of 32. The published
      search for that layer is left to the user.
    - "sparsevlm": the attention of the question's words that fit the image, in the layer in front
      of the cut, mean over heads and words (Zhang et al., "SparseVLM", ICML 2025, arXiv 2410.04417,
      second version: nothing is merged, positions are preserved). The words are the text tokens
      behind the last image whose share of softmax(V T') over the embeddings of the prompt, mean
      over visual tokens, is above the mean. Default: 300, 200 and 118 of 576 tokens behind layers
      2, 6 and 15 of 32. Departures: the number is `keep`, not the rank of the attention; all heads
      count alike; no weights by distance.

    The prompt's last token is that of its row: in training it belongs to the answer.

    Visual tokens of one prompt are ranked together, whatever images they come from, and each prompt
    of a batch by itself. Of equal tokens the earlier one stays.

        with otprune.prune(model, otprune.TransportPrune(0.33), layers=otprune.LayerStage()):
            model.generate(**inputs)

        # FastV as published, and without a first stage
        stage = otprune.LayerStage(after=2, keep=0.5)
        with otprune.prune(model, otprune.GridPrune(1.0), layers=stage) as run:
            model.generate(**inputs)
        print(run.layers[0].kept)

        otprune.LayerStage(rank="pyramiddrop")
        otprune.LayerStage(after=(2, 0.5), keep=(64, 16), rank="fastv")
        otprune.LayerStage(rank="vtw", after=20)

    Attributes:
        after: number of layers in front of the cut, as an int >= 1 (the 0-based index of the first
            layer that runs pruned), or their share of the layers in (0, 1), as a float. A tuple for
            several cuts, each further than the one before it. None: the default of the rank.
        keep: visual tokens of each prompt that stay: a ratio in (0, 1] as a float, of those that
            enter the language model, or their number as an int. A tuple for several cuts; each
            counts from the tokens that enter the model, and keeps at most what the cut before it
            kept. None: the default of the rank, which needs as many values as `after`.
        rank: see above.

    Raises:
        KeepError: `keep` is no ratio or number, is a rule, or is given for "vtw".
        OTPruneError: another argument is wrong, or `after` and `keep` differ in number.
    """

    after: float | int | tuple[float | int, ...] | None = None
    keep: float | int | tuple[float | int, ...] | None = None
    rank: Rank = "fastv"

    def __post_init__(self) -> None:
        if self.rank not in get_args(Rank):
            names = ", ".join(repr(name) for name in get_args(Rank))
            raise OTPruneError(f"rank={self.rank!r} in a layer stage: expected one of {names}")
        # Lists, as they come from a file, are taken for tuples, so that the stage can be hashed.
        for name in ("after", "keep"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.cuts:
            raise OTPruneError("after=() in a layer stage: give at least one cut, or leave it out")
        for after in self.cuts:
            _check_after(after)
        if self.rank == "vtw":
            if self.keep is not None:
                raise KeepError(
                    f"keep={self.keep!r} with rank='vtw', which keeps none: leave it out"
                )
            return
        for keep in self.keeps:
            check_keep(keep)
        if len(self.keeps) != len(self.cuts):
            raise OTPruneError(
                f"a layer stage with {len(self.cuts)} cuts and {len(self.keeps)} values of keep "
                f"(after={self.after!r}, keep={self.keep!r}, rank={self.rank!r}): give one value "
                "of keep for each cut"
            )

    @property
    def cuts(self) -> tuple[float | int, ...]:
        """`after` of each cut."""
        return _AFTER[self.rank] if self.after is None else _several(self.after)

    @property
    def keeps(self) -> tuple[float | int, ...]:
        """`keep` of each cut; empty for "vtw"."""
        return _KEEP[self.rank] if self.keep is None else _several(self.keep)

    def layers(self, layers: int) -> list[int]:
        """Index of the first layer behind each cut, of a model with so many layers, ascending.

        Raises:
            OTPruneError: a cut has no layer behind it, or is not further than the one before it.
        """
        found = [
            int(x) if isinstance(x, Integral) else max(1, min(round(x * layers), layers - 1))
            for x in self.cuts
        ]
        if found[-1] >= layers or any(a >= b for a, b in pairwise(found)):
            raise OTPruneError(
                f"a layer stage with cuts before layers {found}, and the language model has "
                f"{layers}: give ascending numbers below that, or shares in (0, 1) as floats"
            )
        return found

    def numbers(self, cut: int, entered: Sequence[int], left: Sequence[int]) -> list[int]:
        """How many visual tokens of each prompt stay at a cut.

        Args:
            cut: index of the cut.
            entered: the number of each prompt's tokens that entered the language model.
            left: how many of them came to the cut.
        """
        if self.rank == "vtw":
            return [0] * len(left)
        keep = self.keeps[cut]
        return [min(count(keep, m), n) if n else 0 for m, n in zip(entered, left, strict=True)]


def _several(value: float | int | tuple[float | int, ...]) -> tuple[float | int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _check_after(after: object) -> None:
    fits = not isinstance(after, bool) and (
        (isinstance(after, Integral) and int(after) >= 1)
        or (isinstance(after, Real) and not isinstance(after, Integral) and 0 < float(after) < 1)
    )
    if not fits:
        raise OTPruneError(
            f"after={after!r} in a layer stage: expected a number of layers >= 1 as an int, or a "
            "share of them in (0, 1) as a float"
        )
