"""Calls of the language model on a session's cache."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin, StoppingCriteria

from otprune.engines.transformers.encoded import Encoded
from otprune.engines.transformers.entry import unpruned
from otprune.engines.transformers.memory import CACHE_NAMES
from otprune.engines.transformers.parameters import parameters_of
from otprune.engines.transformers.positions import full_positions
from otprune.engines.transformers.prompt import setting
from otprune.errors import OTPruneError, UnsupportedError

# Arguments of generate() that a session gives itself, beside those of forward().
_OWN = ("inputs", "otprune", *CACHE_NAMES)
# Settings that need another cache, or that run the model over the prompt again: of a call, or of a
# generation config.
_SETTINGS = (
    "cache_implementation",
    "return_dict_in_generate",
    "assistant_model",
    "assistant_early_exit",
    "prompt_lookup_num_tokens",
    "use_mtp",
    "prefill_chunk_size",
    "custom_generate",
)


def check_layers(model: Any) -> None:
    """Refuse a language model in which a token does not see all tokens before it, and only those.

    Raises:
        UnsupportedError: it has sliding windows, states instead of keys, or image tokens that see
            each other in both directions.
    """
    name = type(model).__name__
    if not issubclass(type(model), GenerationMixin):
        raise UnsupportedError(f"{name} does not generate: a session needs a model that answers")
    for layer in DynamicCache(config=model.config).layers:
        if getattr(layer, "is_sliding", False) or type(layer).__name__ != "DynamicLayer":
            raise UnsupportedError(
                f"{name} has layers with a sliding window or a state of their own "
                f"({type(layer).__name__}), from which kept tokens cannot be dropped one by one: a "
                "session needs a language model with full attention"
            )
    if "token_type_ids" in parameters_of(model.forward):
        raise UnsupportedError(
            f"{name}: its image tokens see each other in both directions, and a frame's tokens "
            "cannot see those of later frames: a session needs a causal language model"
        )


def has_mrope(model: Any) -> bool:
    """Whether positions have three axes: time, height, width."""
    return hasattr(model.base_model, "rope_deltas")


def positions_of(model: Any, call: Encoded) -> Tensor:
    """Positions of a frame's tokens in a prompt of its own, as the model makes them.

    M-RoPE models store what they count from on themselves; a conversation outside the session may
    depend on it, so it is put back.
    """
    base = model.base_model
    stored = getattr(base, "rope_deltas", None)
    try:
        return full_positions(model, call.given, call.mask)
    finally:
        if has_mrope(model):
            base.rope_deltas = stored


def on_device(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """A frame's arguments on the model's device, floats in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, Tensor)
        else value
        for name, value in inputs.items()
    }


@torch.no_grad()
def prefill(
    model: Any,
    ids: Tensor,
    positions: Tensor,
    cache: DynamicCache,
    outputs: dict[str, Any] | None = None,
) -> None:
    """Run the model over new tokens behind a cache, which is extended.

    Args:
        ids: `(k,)`; positions: `(axes, k)`; outputs: encoder outputs of the visual tokens in it.
    """
    arguments: dict[str, Any] = {
        "input_ids": ids.unsqueeze(0),
        "position_ids": _for_model(positions),
        _cache_name(model): cache,
        "use_cache": True,
    }
    if "logits_to_keep" in parameters_of(model.forward):
        arguments["logits_to_keep"] = 1
    if outputs:
        arguments["mm_encoder_outputs"] = outputs
    _check_caches(model)
    unpruned(model, "forward", arguments)


def check_generate(model: Any, given: dict[str, Any]) -> None:
    """Refuse arguments of generate() that do not work on a session's cache."""
    for name in (*_OWN, *parameters_of(model.forward)):
        if given.get(name) is not None:
            raise UnsupportedError(f"{name} does not work with a session, which sets it: leave it")
    for name in _SETTINGS:
        value = setting(model, given, name)
        if value is not None and value is not False:
            raise UnsupportedError(f"{name}={value!r} does not work with a session: leave it out")
    if setting(model, given, "use_cache") is False:
        raise UnsupportedError("use_cache=False: a session answers from its cache; set it True")
    for name in ("num_beams", "num_return_sequences"):
        if (setting(model, given, name) or 1) > 1:
            raise UnsupportedError(f"{name} above 1: a session answers with one sequence; set it 1")


@torch.no_grad()
def generate(
    model: Any, ids: Tensor, positions: Tensor, cache: DynamicCache, given: dict[str, Any]
) -> Tensor:
    """The ids of an answer, `(t,)`.

    Args:
        ids: `(n,)`, positions: `(axes, n)`; all tokens, of which the cache holds the first.
        cache: is extended.
        given: the caller's arguments of generate().
    """
    arguments = {
        "input_ids": ids.unsqueeze(0),
        "attention_mask": torch.ones_like(ids).unsqueeze(0),
        "position_ids": _for_model(positions),
        _cache_name(model): cache,
        **given,
    }
    _check_caches(model)
    out: Tensor = unpruned(model, "generate", arguments)
    return out[0, len(ids) :]


def check_text(model: Any, ids: list[int]) -> None:
    """Refuse text in which a token stands for an image, since no image would take its place."""
    for modality in ("image", "video"):
        if getattr(model.config, f"{modality}_token_id", None) in ids:
            raise OTPruneError(
                f"a question contains the token that stands for {modality}s: leave it out; what "
                "was seen is in front of every question"
            )


def without_end(model: Any, answer: Tensor, given: dict[str, Any]) -> list[int]:
    """The ids of an answer without what ended it."""
    end = setting(model, given, "eos_token_id")
    ends = {end} if isinstance(end, int) else set(end or ())
    ids = [int(x) for x in answer]
    while ids and ids[-1] in ends:
        ids.pop()
    return ids


def fingerprint(model: Any) -> Tensor:
    """The first number of every parameter, by which a model is told from others."""
    first = [x.detach().reshape(-1)[:1].float().cpu() for x in model.parameters() if not x.is_meta]
    return torch.cat(first)


class Stop(StoppingCriteria):
    """Stops a generation once an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self._event.is_set(), device=input_ids.device)


def _check_caches(model: Any) -> None:
    """Refuse a model whose layers would pass over their cache."""
    if model.training and any(getattr(x, "gradient_checkpointing", False) for x in model.modules()):
        raise UnsupportedError(
            f"{type(model).__name__} is trained with gradient checkpointing, where layers use no "
            "cache: call model.eval()"
        )


def _for_model(positions: Tensor) -> Tensor:
    return positions if len(positions) == 1 else positions.unsqueeze(1)


def _cache_name(model: Any) -> str:
    takes = parameters_of(model.forward)
    return next(name for name in CACHE_NAMES if name in takes)
