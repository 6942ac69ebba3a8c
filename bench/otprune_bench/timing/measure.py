"""One call of a model: the time of each token, and the operations of the call."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, StoppingCriteria

from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers import prune
from otprune.engines.transformers.encoded import encode_call
from otprune.engines.transformers.memory import cache_bytes, cache_of
from otprune.measures.mass import Mass
from otprune.selectors import Selector
from otprune_bench.timing.shapes import Shape


@dataclass(frozen=True)
class Timed:
    """One call of `generate`.

    Attributes:
        tokens: seconds from the call to each new token.
        selector: seconds of the selection, within the first of them; 0.0 unpruned.
        inside: seconds of the selection inside the encoder, likewise; 0.0 without one.
        cache_bytes: keys and values of the prompt and of all new tokens but the last.
        prompt: tokens that the language model saw before the first new one.
    """

    tokens: list[float]
    selector: float
    inside: float
    cache_bytes: int
    prompt: int


class _Clock(StoppingCriteria):
    """Never stops; records the time of each call, which is once a token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def generate(
    model: Any,
    inputs: dict[str, Any],
    selector: Selector | None,
    new: int,
    mass: Mass = "none",
    stage: EncoderStage | None = None,
) -> Timed:
    """Greedy decoding of `new` tokens, unpruned if there is no selector.

    Args:
        stage: a selection inside the encoder besides, of inputs that are pixels.
    """
    clock = _Clock()
    block = nullcontext() if selector is None else prune(model, selector, mass=mass, encoder=stage)
    with block as run:
        start = time.perf_counter()
        out = model.generate(
            **inputs,
            max_new_tokens=new,
            do_sample=False,
            stopping_criteria=[clock],
            return_dict_in_generate=True,
        )
    items = run.last if run is not None else []
    assert items is not None
    dropped = sum(item.before - item.after for item in items)
    return Timed(
        tokens=[moment - start for moment in clock.times],
        selector=sum(item.seconds for item in items),
        inside=0.0 if run is None else sum(call.seconds for call in run.encoder),
        cache_bytes=cache_bytes(cache_of(out)),
        prompt=inputs["input_ids"].shape[1] - dropped,
    )


@torch.no_grad()
def encode(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs with the encoder's output instead of the pixels."""
    outputs = encode_call(model, inputs).outputs
    kept = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return kept | {"mm_encoder_outputs": outputs}


@torch.no_grad()
def encode_staged(
    model: Any, inputs: dict[str, Any], stage: EncoderStage | None
) -> tuple[float, float]:
    """Seconds to encode the pixels, and of these the seconds of the selection inside."""
    start = time.perf_counter()
    calls = encode_call(model, inputs, stage).calls
    return time.perf_counter() - start, sum(call.seconds for call in calls)


@torch.no_grad()
def flops(function: Callable[[], object]) -> int:
    """Floating-point operations of a call's matrix products and convolutions, by torch's counter.

    A multiplication and the addition after it are two operations.
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


class MetaModel:
    """A whole model on the meta device, under eager attention, to count its operations."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        with torch.device("meta"):
            self._model = AutoModelForImageTextToText.from_config(
                shape.full(), dtype=torch.bfloat16, attn_implementation="eager"
            )

    def encoder(self) -> int:
        """Operations of encoder and projector for the shape's one image."""
        pixels = torch.empty(self._shape.pixels, device="meta", dtype=torch.bfloat16)
        arguments = copy.copy(self._shape.arguments)
        return flops(lambda: self._model.model.get_image_features(pixels, **arguments))

    def prefill(self, n: int) -> int:
        """Operations of the language model's layers for a prompt of n tokens, without its head."""
        width = self._shape.width
        embeds = torch.empty(1, n, width, device="meta", dtype=torch.bfloat16)
        # A mask that is there already: making one asks for values, and there are none.
        mask = torch.empty(1, 1, n, n, device="meta", dtype=torch.bfloat16)
        places = torch.empty(1, n, device="meta", dtype=torch.long)
        return flops(
            lambda: self._model.model.language_model(
                inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False
            )
        )
