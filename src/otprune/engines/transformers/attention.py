"""Attention mass inside a model: a bias on the keys of the language model's attention layers.

Each layer asks transformers which attention function to call. For the length of a call with masses,
and in that call's own thread and context alone, the answer is the same function with the bias in
its mask (sdpa, eager), as a score modification (flex_attention) or in a few more features of the
heads (flash attention). No config changes, so other calls of the same model, at the same time in
other threads too, go the way that they always went. What would lose the mass is refused.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.import_utils import is_torch_npu_available

from otprune.engines.transformers.bias import FEATURES, as_features, as_mask, of_keys
from otprune.errors import UnsupportedError

# Elsewhere keys are not tokens (compressed or linear attention), or a layer chooses among them.
_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


class Decoder:
    """One model's language model, as far as its attention layers are to be told from others.

    config: its config.
    modules: identities of its modules: others in the same call have no masses.
    configs: identities of the configs that its masks are chosen by.
    """

    def __init__(self, module: Any) -> None:
        held = [getattr(x, "config", None) for x in module.modules()]
        self.config = module.config
        self.modules = {id(x) for x in module.modules()}
        self.configs = {id(config) for config in held if config is not None}


@dataclass(eq=False)
class Weights:
    """The masses of one prompt, in the layers of one language model.

    decoder: the language model.
    rows: `(B, n)` float32, log mass of each token of the prompt, 0 for text and padding.
    total: tokens so far, those of the current call included; 0 if no layer of the cache slides.
    again: what keeps a graph and runs it again where the current call began, see `_checkpoint`.
    used: the attention layers that have used them in the current call.
    """

    decoder: Decoder
    rows: Tensor
    total: int = 0
    again: tuple[bool, Any] = (False, None)
    used: set[int] = field(default_factory=set)
    _masks: dict[tuple[Any, ...], tuple[Any, Tensor]] = field(default_factory=dict)

    def for_call(self, total: int) -> Weights:
        """The same masses for one more call of the model; see `total`."""
        return Weights(self.decoder, self.rows, total, _checkpoint())

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

    def check_once(self) -> None:
        """In a layer: raise UnsupportedError if it will run again when the call is long over."""
        graph, hook = _checkpoint()
        if (self.again[0] and not graph) or (hook is not None and hook is not self.again[1]):
            raise UnsupportedError(
                "mass with activation checkpointing: layers run again after the call, without "
                "their masses, and gradients would be wrong: checkpoint the whole call, or use "
                "mass='none'"
            )

    def check_used(self) -> None:
        """After a call: raise UnsupportedError unless all layers have weighed their tokens."""
        layers = int(self.decoder.config.num_hidden_layers)
        if len(self.used) < layers:
            raise UnsupportedError(
                f"the model attends in only {len(self.used)} of {layers} "
                "layers through transformers' attention interface, so the mass would be lost in "
                "the others: use mass='none'"
            )


def _checkpoint() -> tuple[bool, Any]:
    """Whether a graph is made, and the innermost torch.utils.checkpoint around here, if any.

    A reentrant one makes no graph of what it runs the first time.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    pack = hooks[0] if hooks else None
    ours = getattr(pack, "__module__", None) == "torch.utils.checkpoint"
    return torch.is_grad_enabled(), pack if ours else None


_NOW: ContextVar[Weights | None] = ContextVar("otprune_weights", default=None)
# Whose masks are made: generate() makes those of a static cache before it calls the model.
_MASKED: ContextVar[Weights | None] = ContextVar("otprune_masks", default=None)


def weights_of(model: Any, rows: Tensor | None) -> Weights | None:
    """Masses `(B, n)` for a model's calls, after a look at whether they would reach its layers.

    Raises:
        UnsupportedError: as `check_attention`.
    """
    if rows is None:
        return None
    check_attention(model)
    return Weights(Decoder(model.get_decoder()), rows)


@contextmanager
def weighing(weights: Weights | None, layers: bool = True) -> Iterator[None]:
    """Inside, in this thread and context alone, layers weigh a prompt's tokens; or none do.

    layers: False if only masks are made that leave room for the masses; layers that somebody calls
        in between (a criterion that asks a part of the model) weigh nothing.
    """
    if weights is None and _NOW.get() is None and _MASKED.get() is None:
        yield
        return
    masked, now = _MASKED.set(weights), _NOW.set(weights if layers else None)
    if weights is not None:
        _interfaces.enter()
    try:
        yield
    finally:
        if weights is not None:
            _interfaces.leave()
        _NOW.reset(now)
        _MASKED.reset(masked)


def check_attention(model: Any) -> None:
    """Refuse models and attention functions in which mass would be lost or mean nothing.

    Raises:
        UnsupportedError: says which, why, and what to choose instead.
    """
    name, decoder = type(model).__name__, model.get_decoder()
    again = [getattr(module, "gradient_checkpointing", False) for module in decoder.modules()]
    if decoder.training and any(again):
        raise UnsupportedError(
            "mass with gradient checkpointing: layers run again after the call, without their "
            "masses: call model.gradient_checkpointing_disable() or use mass='none'"
        )
    for config in _configs(model, decoder):
        kinds = set(getattr(config, "layer_types", None) or ()) - _LAYERS
        if kinds:
            raise UnsupportedError(
                f"{name} has layers of {', '.join(sorted(kinds))}, in which a token's mass has "
                "no meaning: use mass='none'"
            )
        chosen = str(config._attn_implementation)
        way = _way(chosen, ALL_ATTENTION_FUNCTIONS.get(chosen), shared=True)
        if way is None or (chosen == "sdpa" and is_torch_npu_available()):
            raise UnsupportedError(
                f"mass is not known to reach the attention implementation {chosen!r}: use "
                "model.set_attn_implementation('sdpa'), or mass='none'"
            )
    if any(hasattr(module, "indexer") for module in decoder.modules()):
        raise UnsupportedError(
            f"{name} has layers that choose the tokens they attend to, and copies would change "
            "the choice: use mass='none'"
        )


def _configs(model: Any, decoder: Any) -> list[Any]:
    """All configs that the language model's layers and masks are chosen by."""
    held = [getattr(module, "config", None) for module in decoder.modules()]
    found = [model.config.get_text_config(), *held]
    named = [config for config in found if hasattr(config, "_attn_implementation")]
    return list({id(config): config for config in named}.values())


class _Interfaces:
    """What transformers answers when a layer asks for its attention function or its mask.

    Changed while some call has masses, in whatever thread; a call without them gets the answer that
    it would have got.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            function: Callable[..., Any] = AttentionInterface.get_interface
            mask: Callable[..., Any] = AttentionMaskInterface.__getitem__

            def get_interface(interface: Any, chosen: str, default: Any) -> Any:
                found, now = function(interface, chosen, default), _NOW.get()
                if now is None or getattr(found, "func", None) is _attend:
                    return found
                shared = interface is ALL_ATTENTION_FUNCTIONS
                return functools.partial(_attend, chosen, found, shared)

            def getitem(interface: Any, chosen: str) -> Any:
                found = mask(interface, chosen)
                return found if _MASKED.get() is None else functools.partial(_whole, found)

            self._function, self._ours = function, (get_interface, getitem)
            self._mask = vars(AttentionMaskInterface).get("__getitem__")
            setattr(AttentionInterface, "get_interface", get_interface)  # noqa: B010
            setattr(AttentionMaskInterface, "__getitem__", getitem)  # noqa: B010

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            # What somebody else has put in their place meanwhile stays.
            if AttentionInterface.get_interface is self._ours[0]:
                setattr(AttentionInterface, "get_interface", self._function)  # noqa: B010
            if AttentionMaskInterface.__getitem__ is self._ours[1]:
                delattr(AttentionMaskInterface, "__getitem__")
                if self._mask is not None:
                    setattr(AttentionMaskInterface, "__getitem__", self._mask)  # noqa: B010


_interfaces = _Interfaces()


def _whole(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A mask, where "causal" alone would say too little: there is a bias to go into it."""
    now, config = _MASKED.get(), kwargs.get("config")
    if now is not None and (config is None or id(config) in now.decoder.configs):
        kwargs["allow_is_causal_skip"] = False
    return make(*args, **kwargs)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend(
    chosen: str,
    function: Callable[..., Any],
    shared: bool,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> Any:
    """An attention function of transformers: the chosen one, with the module's masses.

    Not compiled, and the masses looked up anew: a compiled graph would keep those of another call.
    """
    now = _NOW.get()
    if now is None or id(module) not in now.decoder.modules:
        return function(module, query, key, value, attention_mask, **kwargs)
    way = _way(chosen, function, shared)
    if way is None:
        raise UnsupportedError(
            f"mass is not known to reach the {chosen} attention of {type(module).__name__}: use "
            "model.set_attn_implementation('sdpa'), or mass='none'"
        )
    now.check_once()
    now.used.add(id(module))
    return way(function, now, module, query, key, value, attention_mask, **kwargs)


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
    out, *rest = function(module, query, key, value, mask, **kwargs | {"scaling": scaling})
    return out[..., :width], *rest


_WAYS: dict[Callable[..., Any], Callable[..., Any]] = {
    sdpa_attention_forward: _by_mask,
    flex_attention_forward: _by_score,
    flash_attention_forward: _by_features,  # of any release, and kernels from the hub
}


def _way(
    chosen: str, function: Callable[..., Any] | None, shared: bool
) -> Callable[..., Any] | None:
    """How the bias reaches an attention function; None if it is not known to.

    Other libraries wrap the functions that all models share (kvpress does when it is imported).
    Under a name of transformers' own they still take what that function takes.
    """
    if chosen == "eager":  # every model has its own
        return _by_mask
    if function is not None and shared and function not in _WAYS:
        known: Mapping[str, Any] = type(ALL_ATTENTION_FUNCTIONS)._global_mapping
        function = known.get(chosen)
    return None if function is None else _WAYS.get(function)
