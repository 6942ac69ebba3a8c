"""Where the cues of a vision encoder come from in each model, and which models give none.

The layer whose queries and keys are read is the one that produced the features: that of
`vision_feature_layer` (the deepest, if it names several), or the last one where the model takes the
encoder's last output. If that attends within windows, it is the last layer before it that does not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.towers import Tower, layers_of, side_of, tower_of
from otprune.errors import UnsupportedError

SEEN = frozenset({"saliency", "keys", "encoded", "grid"})

INSTEAD = "use a method that does without"
# Which output of the encoder a model's projector reads, for models whose tokens are those of the
# encoder (or blocks of them) one by one and in order: "layer", the hidden state that
# `vision_feature_layer` names; "last", the last output; "either", the last output for layer -1.
_READS: dict[str, Literal["layer", "last", "either"]] = {
    "aya_vision": "layer",
    "cohere2_vision": "last",
    "cosmos3_omni": "last",
    "deepseek_vl": "last",
    "gemma3": "last",
    "hyperclovax_vision_v2": "last",
    "idefics3": "last",
    "internvl": "either",
    "lfm2_vl": "last",
    "lighton_ocr": "last",
    "llava": "layer",
    "llava_next": "layer",
    "llava_next_video": "layer",
    "llava_onevision": "layer",
    "mistral3": "layer",
    "mistral_large4": "layer",
    "paligemma": "last",
    "qwen2_5_vl": "last",
    "qwen2_vl": "last",
    "qwen3_vl": "last",
    "qwen3_vl_moe": "last",
    "shieldgemma2": "last",
    "smolvlm": "last",
    "vipllava": "layer",
}


@dataclass(frozen=True)
class Source:
    """Where the cues of a model come from.

    state: index of the hidden state that the model reads; None for the last output.
    layer: the layer whose queries and keys are read.
    dropped: how many of the special tokens in front of each set the model drops.
    """

    tower: Any
    row: Tower
    side: int
    state: int | None
    layer: Any
    dropped: int


def check_seen(model: Any, needs: Collection[str], stage: EncoderStage | None = None) -> None:
    """Raise UnsupportedError if cues that a method needs cannot be read from a model, or beside a
    selection inside its encoder.
    """
    if SEEN & set(needs):
        seen_in(model, {}, stage, needs, needs)


def seen_in(
    model: Any,
    given: Mapping[str, Any],
    stage: EncoderStage | None,
    uses: Collection[str],
    needs: Collection[str],
) -> frozenset[str]:
    """Names of the cues that can be read in a call, of those that a method uses.

    Args:
        given: the arguments of the call.
        stage: selection inside the encoder, or None.
        uses, needs: names of cues; others than `SEEN` are ignored.

    Raises:
        UnsupportedError: a needed one cannot be read; says why.
    """
    wanted, needed = SEEN & set(uses), SEEN & set(needs)
    name, cues = type(model).__name__, listed(needed or wanted)
    if not wanted:
        return wanted
    try:
        if stage is not None:
            raise UnsupportedError(
                f"{name}: {cues} cannot be read from an encoder that works on a selection of its "
                "tokens: prune without encoder=, or use a method that does without"
            )
        encoded = [x for x in (given.get("mm_encoder_outputs") or {}).values() if x is not None]
        if encoded:
            raise UnsupportedError(
                f"{name}: {cues} cannot be read from mm_encoder_outputs, whose images are encoded "
                f"already: pass pixels, or {INSTEAD}"
            )
        source_of(model, needed or wanted, given)
    except UnsupportedError:
        if needed:
            raise
        return frozenset()
    return wanted


def listed(cues: Collection[str]) -> str:
    return " and ".join(sorted(cues))


def source_of(model: Any, wanted: Collection[str], given: Mapping[str, Any]) -> Source:
    name, cues = type(model).__name__, listed(wanted)
    purpose = f"{cues} of its vision encoder ({{}}) cannot be read"
    tower, row = tower_of(model, purpose, INSTEAD)
    kind = getattr(model.config, "model_type", "")
    reads = "last" if model is tower else _READS.get(kind)
    if reads is None:
        raise UnsupportedError(
            f"{name}: {cues} cannot be read, since it is not known that each of its tokens is one "
            f"of its vision encoder's: {INSTEAD}"
        )
    layers = layers_of(tower, row)
    number = len(layers)
    state, layer = None, number - 1
    if reads != "last":
        named_layer = given.get("vision_feature_layer")
        if named_layer is None:
            named_layer = model.config.vision_feature_layer
        states = [named_layer] if isinstance(named_layer, int) else list(named_layer)
        state = max(states, key=lambda i: i if i >= 0 else number + 1 + i)
        layer = (state if state >= 0 else number + 1 + state) - 1
        if reads == "either" and state == -1:
            state = None
    full = getattr(tower, "fullatt_block_indexes", None)
    if full is not None:
        layer = max((i for i in full if i <= layer), default=-1)
    if not 0 <= layer < number:
        raise UnsupportedError(
            f"{name}: {cues} cannot be read, since no layer that attends to the whole image comes "
            f"before the features: {INSTEAD}"
        )
    strategy = given.get("vision_feature_select_strategy")
    if strategy is None:
        strategy = getattr(model.config, "vision_feature_select_strategy", None)
    dropped = 1 if strategy == "default" or kind == "vipllava" else 0
    return Source(tower, row, side_of(model.config), state, layers[layer], dropped)
