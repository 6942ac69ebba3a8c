"""What a model's config says of its costs: visual tokens and operations of a call, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.encoded import VisualTokens, encode_call
from otprune.engines.transformers.families import check
from otprune.errors import OTPruneError, UnsupportedError, first_line
from otprune.keep import count
from otprune.measures.cells import Cells
from otprune.planning.costs import Attends, Holds, Language
from otprune.planning.counting import counting, weightless

_PROBE = 8  # tokens of the prompt from which the language model's sizes are read


@dataclass(frozen=True)
class Encoding:
    """The images of a call, encoded.

    Attributes:
        tokens: of each image, video, or part of a video, in prompt order; features without values.
        flops: operations of encoder and projector.
        staged: operations with a selection inside the encoder, itself apart; None without one.
        sets: `(m, d)` of each set of tokens that is selected from inside.
    """

    tokens: list[VisualTokens]
    flops: int
    staged: int | None
    sets: list[tuple[int, int]]


class Sizes:
    """A model without weights.

    Args:
        config: of the whole model.
        dtype: of weights and cache.

    Raises:
        UnsupportedError: otprune cannot prune the model, or its layers cannot be counted.
    """

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        try:
            self.model = weightless(config, dtype)
        except Exception as cause:  # configs may be wrong in any way
            raise UnsupportedError(
                f"no model can be built from this config ({first_line(cause)})"
            ) from cause
        check(self.model)
        self.dtype = dtype
        self.parameters = sum(x.numel() for x in self.model.parameters())

    def language(self) -> Language:
        """The language model's sizes, read from a short prompt in its own code."""
        model, n = self.model, _PROBE
        width = model.config.get_text_config().hidden_size
        embeds = torch.empty(1, n, width, device="meta", dtype=self.dtype)
        cache = DynamicCache(config=model.config.get_text_config())
        try:
            with counting() as counted:
                model.get_decoder()(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
            holds = [_holds(layer) for layer in cache.layers]
        except Exception as cause:  # models are of many families
            raise UnsupportedError(
                f"the layers of {type(model).__name__} cannot be counted ({first_line(cause)})"
            ) from cause
        layers = model.config.get_text_config().num_hidden_layers
        if len(counted.attention) != layers or None in holds:
            raise UnsupportedError(
                f"{type(model).__name__}: {len(counted.attention)} of its {layers} layers are "
                "plain attention with a KV cache, and what the others cost does not follow from "
                "the number of tokens alone: it is not forecast"
            )
        head = model.get_output_embeddings()
        return Language(
            token_flops=counted.products // n,
            head_flops=2 * head.weight.numel(),
            attention=tuple(Attends(one.width, one.window) for one in counted.attention),
            cache=tuple(one for one in holds if one is not None),
            element_bytes=self.dtype.itemsize,
        )

    def encode(self, inputs: Mapping[str, Any], stage: EncoderStage | None = None) -> Encoding:
        """Encode a call as the engine would.

        Args:
            inputs: what the processor returned.
            stage: a selection inside the encoder, or None.

        Raises:
            UnsupportedError, OTPruneError: the engine cannot prune the call.
        """
        with counting() as counted:
            call = self._encoded(inputs)
        staged, sets = None, []
        if stage is not None:
            # Masses are a bias, of no matrix product.
            arithmetic = _Arithmetic(stage.keep, stage.after, stage.selector, mass=False)
            with counting() as inside:
                self._encoded(inputs, arithmetic)
            staged, sets = inside.flops, arithmetic.seen
        visual = call.visual
        tokens = [visual[i] for i in call.prompt_order]
        if not tokens:
            raise UnsupportedError(
                f"{type(self.model).__name__} makes no visual tokens of what its processor returns"
            )
        return Encoding(tokens, counted.flops, staged, sets)

    def _encoded(self, inputs: Mapping[str, Any], stage: EncoderStage | None = None) -> Any:
        try:
            return encode_call(self.model, inputs, stage)
        except OTPruneError:
            raise
        except Exception as cause:  # models are of many families
            raise UnsupportedError(
                f"{type(self.model).__name__} fails to encode images of these sizes "
                f"({first_line(cause)})"
            ) from cause


class _Arithmetic(EncoderStage):
    """A stage that keeps as many tokens, whichever they are: there are no values to choose by.

    seen: `(m, d)` of the sets that it was given.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: list[tuple[int, int]]
        object.__setattr__(self, "seen", [])

    def cells(self, sets: Sequence[Tensor]) -> tuple[list[Cells], float]:
        found = []
        for some in sets:
            m = len(some)
            k = count(self.method.keep, m)  # type: ignore[arg-type]
            found.append(Cells(torch.arange(k), torch.arange(m).clamp(max=k - 1)))
            self.seen.append((m, some.shape[-1]))
        return found, 0.0


def _holds(layer: Any) -> Holds | None:
    keys, values = (getattr(layer, name, None) for name in ("keys", "values"))
    if not isinstance(keys, Tensor) or not isinstance(values, Tensor):
        return None
    each = [x.shape[1] * x.shape[-1] * x.element_size() for x in (keys, values)]
    most = int(layer.sliding_window) - 1 if getattr(layer, "is_sliding", False) else None
    return Holds(sum(each), most)
