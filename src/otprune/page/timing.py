"""Where the time to the first token goes, with all visual tokens and with the kept ones."""

from __future__ import annotations

import statistics
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL.Image import Image

from otprune.asking.answers import only
from otprune.asking.models import Loaded, prompt
from otprune.engines.common.selection import timed_call
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers import prune
from otprune.engines.transformers.encoded import encode_call
from otprune.page.wanted import Wanted
from otprune.selectors.preset import Pruning

REPEATS = 3


@dataclass(frozen=True)
class Times:
    """Seconds from the pixels to the first token, in parts.

    Attributes:
        encoder: the vision encoder and projector, run alone.
        selection: of it all the selection, in front of the language model and inside the encoder.
        prefill: the rest: the language model over the prompt, and its first token.
    """

    encoder: float
    selection: float
    prefill: float

    @property
    def total(self) -> float:
        return self.encoder + self.selection + self.prefill


class _Call(NamedTuple):
    """One call: seconds of the encoder alone and of the whole call, and of both selections."""

    encoder: float
    whole: float
    selection: float
    inside: float


def times(
    loaded: Loaded, image: Image, question: str, wanted: Wanted, repeats: int = REPEATS
) -> tuple[Times, Times]:
    """Measure both ways in turn: medians of `repeats`, after the answers as a warm-up.

    The encoder is run alone, the selection is timed by the engine within a whole call, and prefill
    is what is left of that call.
    """
    inputs = prompt(loaded, image, question)
    how, stage = wanted.pruning(), wanted.stage()
    full = []
    cut = []
    for _ in range(repeats):
        full.append(_call(loaded, inputs, None, None))
        cut.append(_call(loaded, inputs, how, stage))
    return _times(full), _times(cut)


def _call(
    loaded: Loaded, inputs: dict[str, Any], how: Pruning | None, stage: EncoderStage | None
) -> _Call:
    model = loaded.model
    uses: Collection[str] = () if how is None else how["selector"].uses

    @torch.no_grad()
    def encode() -> list[Any]:
        return encode_call(model, inputs, stage, uses).calls

    def generate() -> Any:
        return model.generate(**inputs, max_new_tokens=1, do_sample=False, num_beams=1)

    calls, encoder = timed_call(encode, model.device)
    inside = sum(call.seconds for call in calls)
    with nullcontext() if how is None else prune(model, encoder=stage, **how) as run:
        _, whole = timed_call(generate, model.device)
    selection = 0.0 if run is None else only(loaded, run.last).seconds
    return _Call(encoder, whole, selection, inside)


def _times(calls: list[_Call]) -> Times:
    encoder, whole, selection, inside = map(statistics.median, zip(*calls, strict=True))
    return Times(
        encoder=encoder - inside,
        selection=selection + inside,
        prefill=max(0.0, whole - encoder - selection),
    )
