"""Attention mass inside a model: a bias on the keys of the language model's attention layers.

The attention function that the user chose is wrapped under a name of our own, which the language
model's configs carry for the length of a call with masses; it is called as ever, with the bias in
its mask (sdpa, eager), as a score modification (flex_attention) or in a few more features of the
heads (flash attention). The vision tower, text-only calls and everything after the call go the way
that they always went. What would lose the mass is refused.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.import_utils import is_torch_npu_available

from otprune.engines.transformers.bias import FEATURES, as_features, as_mask, of_keys
from otprune.errors import UnsupportedError

_PREFIX = "otprune_"
# Elsewhere keys are not tokens (compressed or linear attention), or a layer chooses among them.
_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(eq=False)
class Weights:
    """The masses of one call.

    rows: `(B, n)` float32, log mass of each token of the prompt, 0 for text and padding.
    total: tokens so far, those of this call included; 0 if no layer of the cache slides.
    layers: the attention layers that have used them.
    """

    rows: Tensor
    total: int = 0
    layers: set[int] = field(default_factory=set)
    _masks: dict[tuple[Any, ...], tuple[Any, Tensor]] = field(default_factory=dict)

    def bias(self, query: Tensor, key: Tensor) -> Tensor:
        """`(B, keys)` float32, where the layer is."""
        rows = self.rows.to(query.device)
        return of_keys(rows, query.shape[0], key.shape[-2], self.total)

    def mask(self, mask: Tensor | None, query: Tensor, key: Tensor, causal: bool) -> Tensor:
        """The layer's mask with the bias in it, made once for all layers that share the mask."""
        shape = query.shape[0], query.shape[-2], key.shape[-2]
        known = (id(mask), causal, shape, query.dtype, query.device)
        if known not in self._masks:
            # The mask is kept beside the result, so that its id stays its own.
            self._masks[known] = mask, as_mask(mask, self.bias(query, key), query, causal)
        return self._masks[known][1]


_PLACES: WeakKeyDictionary[nn.Module, Attention] = WeakKeyDictionary()


class Attention:
    """The attention layers of one model's language model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.now: Weights | None = None

    @functools.cached_property
    def _decoder(self) -> Any:
        return self._model.get_decoder()

    def check(self) -> None:
        """Refuse models and attention functions in which mass would be lost or mean nothing.

        Raises:
            UnsupportedError: says which, why, and what to choose instead.
        """
        name = type(self._model).__name__
        again = [getattr(m, "gradient_checkpointing", False) for m in self._decoder.modules()]
        if self._decoder.training and any(again):
            raise UnsupportedError(
                "mass with gradient checkpointing: layers run again after the call, without their "
                "masses: call model.gradient_checkpointing_disable() or use mass='none'"
            )
        for config in self._configs():
            kinds = set(getattr(config, "layer_types", None) or ()) - _LAYERS
            if kinds:
                raise UnsupportedError(
                    f"{name} has layers of {', '.join(sorted(kinds))}, in which a token's mass has "
                    "no meaning: use mass='none'"
                )
            chosen = _inner(config)
            way = _way(chosen, ALL_ATTENTION_FUNCTIONS.get(chosen))
            if way is None or (chosen == "sdpa" and is_torch_npu_available()):
                raise UnsupportedError(
                    f"mass is not known to reach the attention implementation {chosen!r}: use "
                    "model.set_attn_implementation('sdpa'), or mass='none'"
                )
        if any(hasattr(module, "indexer") for module in self._decoder.modules()):
            raise UnsupportedError(
                f"{name} has layers that choose the tokens they attend to, and copies would change "
                "the choice: use mass='none'"
            )

    def enter(self, rows: Tensor, total: int = 0) -> None:
        """Let the layers weigh the tokens of the prompt from here on.

        Args:
            rows: see `Weights`.
            total: see `Weights`.
        """
        if self.now is None:
            self.check()
            for module in self._decoder.modules():
                _PLACES[module] = self
        for config in self._configs():
            chosen = _inner(config)
            _register(chosen)
            config._attn_implementation_internal = _PREFIX + chosen
        self.now = Weights(rows, total)

    def leave(self) -> None:
        """Put everything back."""
        if self.now is None:
            return
        self.now = None
        for config in self._configs():
            config._attn_implementation_internal = _inner(config)
        for module in self._decoder.modules():
            _PLACES.pop(module, None)

    def check_used(self) -> None:
        """After a call: raise UnsupportedError unless all layers have weighed their tokens."""
        layers = int(self._decoder.config.num_hidden_layers)
        if self.now is not None and len(self.now.layers) < layers:
            raise UnsupportedError(
                f"{type(self._model).__name__} attends in only {len(self.now.layers)} of {layers} "
                "layers through transformers' attention interface, so the mass would be lost in "
                "the others: use mass='none'"
            )

    def _configs(self) -> list[Any]:
        """All configs that the language model's layers and masks are chosen by."""
        held = [getattr(module, "config", None) for module in self._decoder.modules()]
        found = [self._model.config.get_text_config(), *held]
        named = [config for config in found if hasattr(config, "_attn_implementation")]
        return list({id(config): config for config in named}.values())


def _inner(config: Any) -> str:
    """The implementation that the user chose."""
    return str(config._attn_implementation).removeprefix(_PREFIX)


def _register(chosen: str) -> None:
    name = _PREFIX + chosen
    if name in ALL_ATTENTION_FUNCTIONS:
        return
    make = ALL_MASK_ATTENTION_FUNCTIONS[chosen]

    def mask(*args: Any, **kwargs: Any) -> Any:
        # "Causal" alone says too little once there is a bias: always ask for the mask itself.
        return make(*args, **kwargs | {"allow_is_causal_skip": False})

    AttentionMaskInterface.register(name, mask)
    AttentionInterface.register(name, functools.partial(_attend, chosen))


def _attend(
    chosen: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> Any:
    """An attention function of transformers: the chosen one, with the module's masses."""
    function = _function(type(module), chosen)
    place = _PLACES.get(module)
    now = None if place is None else place.now
    if now is None:
        return function(module, query, key, value, attention_mask, **kwargs)
    way = _way(chosen, function)
    if way is None:
        raise UnsupportedError(
            f"mass: {type(module).__name__} has a {chosen} attention of its own: use mass='none'"
        )
    now.layers.add(id(module))
    return way(function, now, module, query, key, value, attention_mask, **kwargs)


def _function(layer: type[nn.Module], chosen: str) -> Callable[..., Any]:
    """What the layer itself would have called: its file may have its own of any name."""
    names = inspect.unwrap(layer.forward).__globals__
    table = names.get("ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)
    function: Callable[..., Any] | None = table.get(chosen, names.get("eager_attention_forward"))
    if function is None:
        raise UnsupportedError(
            f"mass: {layer.__name__} has no {chosen} attention of its own: use "
            "model.set_attn_implementation('sdpa'), or mass='none'"
        )
    return function


def _by_mask(
    function: Callable[..., Any],
    now: Weights,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> Any:
    causal = kwargs.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", True)
    return function(module, query, key, value, now.mask(mask, query, key, causal), **kwargs)


def _by_score(
    function: Callable[..., Any],
    now: Weights,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    **kwargs: Any,
) -> Any:
    if "position_bias" not in inspect.signature(function).parameters:
        raise UnsupportedError(
            "mass: flex_attention takes no bias in this release of transformers: use "
            "model.set_attn_implementation('sdpa'), or mass='none'"
        )
    bias = now.bias(query, key)[:, None, None].expand(-1, *query.shape[1:3], -1)
    if kwargs.get("position_bias") is not None:
        bias = bias + kwargs["position_bias"]
    return function(module, query, key, value, mask, **kwargs | {"position_bias": bias})


def _by_features(
    function: Callable[..., Any],
    now: Weights,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> Any:
    if kwargs.get("softcap") is not None:
        raise UnsupportedError(
            "mass: flash attention would cap the bias with the logits (softcap): use "
            "model.set_attn_implementation('eager'), or mass='none'"
        )
    d, width = query.shape[-1], value.shape[-1]
    scaling = kwargs.get("scaling") or d**-0.5
    query, key = as_features(query, key, now.bias(query, key), scaling)
    value = torch.nn.functional.pad(value, (0, d + FEATURES - width))
    own = module.config._attn_implementation_internal
    # The kernel is looked up by the config's name for it.
    module.config._attn_implementation_internal = _inner(module.config)
    try:
        out, *rest = function(module, query, key, value, mask, **kwargs | {"scaling": scaling})
    finally:
        module.config._attn_implementation_internal = own
    return out[..., :width], *rest


_WAYS: dict[Callable[..., Any], Callable[..., Any]] = {
    sdpa_attention_forward: _by_mask,
    flex_attention_forward: _by_score,
    flash_attention_forward: _by_features,  # of any release, and kernels from the hub
}


def _way(chosen: str, function: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """How the bias reaches an attention function; None if it is not known to."""
    if chosen == "eager":  # every model has its own
        return _by_mask
    return None if function is None else _WAYS.get(function)
