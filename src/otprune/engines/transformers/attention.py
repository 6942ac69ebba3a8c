"""Mass and distance inside a model: a bias in the language model's attention layers.

Each layer asks transformers which attention function to call. During a call with a bias the answer
is the same function with the bias added to its mask (sdpa, eager), passed as a score modification
(flex_attention), or encoded in extra head features (flash attention, which takes no distance term,
since that differs between queries). This holds only in the thread
and context of that call. No config is changed, so other calls of the same model are unaffected,
including concurrent ones in other threads. An attention layer in which the mass would be lost is
refused.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.import_utils import is_torch_npu_available

from otprune.engines.common.key_features import FEATURES
from otprune.engines.transformers.bias import as_features, as_mask, bias_of_keys, repeat_rows
from otprune.engines.transformers.memory import Memory
from otprune.engines.transformers.rotary import Distance, rotary_of
from otprune.errors import UnsupportedError

# In other layer types a key is not a token (compressed or linear attention), or the layer attends
# to a selection of the tokens.
_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
_NO_FLASH = (
    "distance: flash attention takes no bias that differs between queries: use "
    "model.set_attn_implementation('sdpa'), or distance=False"
)


class Decoder:
    """Identifies the attention layers and masks of one language model.

    config: its config.
    modules: ids of its modules. Other modules in the same call get no bias.
    configs: ids of the configs that transformers may create its masks from.
    """

    def __init__(self, module: Any) -> None:
        configs = [getattr(x, "config", None) for x in module.modules()]
        self.config = module.config
        self.modules = {id(x) for x in module.modules()}
        self.configs = {id(config) for config in configs if config is not None}


class LayerBias(Protocol):
    """A bias in attention layers, applied through `apply_key_bias`."""

    decoder: Decoder
    used_layers: set[int]

    def bias(self, layer: nn.Module, query: Tensor, key: Tensor) -> Tensor:
        """`(B, 1 or q, keys)` float32, on the device of the layer."""

    def mask(
        self, layer: nn.Module, mask: Tensor | None, query: Tensor, key: Tensor, causal: bool
    ) -> Tensor:
        """The layer's mask plus the bias."""

    def check_not_rerun(self) -> None:
        """In a layer: raise UnsupportedError if it will be recomputed after the call has ended."""


@dataclass(eq=False)
class KeyBias:
    """The log masses of one prompt, as a bias on its keys in the layers of one language model.

    decoder: the language model.
    log_mass: `(B, n)` float32, log mass of each token of the prompt, 0 for text and padding.
    distance: the distance term, which also depends on the query; None without it.
    total: tokens so far, including those of the current call; 0 if no layer has a sliding window.
    checkpointing: the state of `checkpointing` when the current call began.
    used_layers: ids of the attention layers that have applied the bias in the current call.
    """

    decoder: Decoder
    log_mass: Tensor
    distance: Distance | None = None
    total: int = 0
    checkpointing: tuple[bool, Any] = (False, None)
    used_layers: set[int] = field(default_factory=set)
    _masks: dict[tuple[Any, ...], tuple[Any, Tensor]] = field(default_factory=dict)

    def for_call(self, total: int, positions: Tensor | None) -> KeyBias:
        """The same for the next call of the model: see `total`, and its `position_ids`.

        Raises:
            UnsupportedError: the distance term needs positions, and they are None.
        """
        distance = None if self.distance is None else self.distance.for_call(positions)
        return KeyBias(self.decoder, self.log_mass, distance, total, checkpointing())

    def bias(self, layer: nn.Module, query: Tensor, key: Tensor) -> Tensor:
        """`(B, 1 or q, keys)` float32, on the device of the layer."""
        bias = self.log_mass.to(query.device).unsqueeze(1)
        if self.distance is not None:
            bias = repeat_rows(bias, query.shape[0]) + self.distance.bias(layer, query)
        return bias_of_keys(bias, query.shape[0], key.shape[-2], self.total)

    def mask(
        self, layer: nn.Module, mask: Tensor | None, query: Tensor, key: Tensor, causal: bool
    ) -> Tensor:
        """The layer's mask plus the bias, computed once for all layers that share both."""
        kind = None if self.distance is None else self.distance.rotary.kind_of(layer)
        shape = query.shape[0], query.shape[-2:], key.shape[-2]
        known = (id(mask), causal, kind, shape, query.dtype, query.device)
        if known not in self._masks:
            # Keeping a reference to the mask ensures that its id is not reused.
            self._masks[known] = mask, as_mask(mask, self.bias(layer, query, key), query, causal)
        return self._masks[known][1]

    def check_not_rerun(self) -> None:
        """In a layer: raise UnsupportedError if it will be recomputed after the call has ended."""
        recorded, outer_hook = self.checkpointing
        records, hook = checkpointing()
        if (recorded and not records) or (hook is not None and hook is not outer_hook):
            raise UnsupportedError(
                "mass with activation checkpointing: layers run again after the call, without "
                "their masses, and gradients would be wrong: checkpoint the whole call, or use "
                "mass='none'"
            )

    def check_used(self) -> None:
        """After a call: raise UnsupportedError unless all layers have applied the bias."""
        layers = int(self.decoder.config.num_hidden_layers)
        if len(self.used_layers) < layers:
            raise UnsupportedError(
                f"the model attends in only {len(self.used_layers)} of {layers} "
                "layers through transformers' attention interface, so the mass would be lost in "
                "the others: use mass='none'"
            )


def checkpointing() -> tuple[bool, Any]:
    """Whether gradients are recorded, and the hook of the innermost torch.utils.checkpoint, if any.

    Reentrant checkpointing records no gradients in its first run.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    pack = hooks[0] if hooks else None
    ours = getattr(pack, "__module__", None) == "torch.utils.checkpoint"
    return torch.is_grad_enabled(), pack if ours else None


_KEY_BIAS: ContextVar[LayerBias | None] = ContextVar("otprune_key_bias", default=None)
# The key bias that masks must leave room for. It is set for longer than `_KEY_BIAS`: generate()
# creates the masks of a static cache before it calls the model.
_MASK_BIAS: ContextVar[LayerBias | None] = ContextVar("otprune_mask_bias", default=None)


def key_bias_of(model: Any, memory: Memory | None) -> KeyBias | None:
    """The key bias of a pruned prompt, once the model's attention is known to support it.

    None if nothing was pruned, or without mass and distance.

    Raises:
        UnsupportedError: as `check_attention`.
    """
    if memory is None or memory.key_bias is None:
        return None
    check_attention(model, memory.distance is not None)
    distance = None
    if memory.distance is not None:
        distance = Distance(rotary_of(model), memory.distance, memory.positions)
    return KeyBias(Decoder(model.get_decoder()), memory.key_bias, distance)


@contextmanager
def apply_key_bias(key_bias: LayerBias | None, layers: bool = True) -> Iterator[None]:
    """Inside, in this thread and context only, attention layers apply a key bias; None for none.

    layers: False if only masks are created so that a bias can be added to them. Layers that are
        called in the meantime (a stopping criterion that runs a part of the model) apply no bias.
    """
    if key_bias is None and _KEY_BIAS.get() is None and _MASK_BIAS.get() is None:
        yield
        return
    in_masks, in_layers = _MASK_BIAS.set(key_bias), _KEY_BIAS.set(key_bias if layers else None)
    if key_bias is not None:
        _interfaces.enter()
    try:
        yield
    finally:
        if key_bias is not None:
            _interfaces.leave()
        _KEY_BIAS.reset(in_layers)
        _MASK_BIAS.reset(in_masks)


# What is called with an attention layer, its queries and keys, its mask and further arguments.
Watch = Callable[[Any, Tensor, Tensor, Any, Mapping[str, Any]], None]
_WATCH: ContextVar[Watch | None] = ContextVar("otprune_attention_watch", default=None)


@contextmanager
def watch_attention(watch: Watch) -> Iterator[None]:
    """Inside, in this thread and context only, `watch` sees what attention functions are given."""
    token = _WATCH.set(watch)
    _interfaces.enter()
    try:
        yield
    finally:
        _interfaces.leave()
        _WATCH.reset(token)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _watched(
    function: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> Any:
    watch = _WATCH.get()
    if watch is not None:
        watch(module, query, key, attention_mask, kwargs)
    return function(module, query, key, value, attention_mask, **kwargs)


def check_attention(model: Any, distance: bool = False) -> None:
    """Refuse models and attention functions in which mass would be lost or has no meaning.

    distance: whether there is a distance term, too.

    Raises:
        UnsupportedError: with the reason and what to choose instead.
    """
    name, decoder = type(model).__name__, model.get_decoder()
    if distance:
        rotary_of(model)
    checkpointed = [getattr(x, "gradient_checkpointing", False) for x in decoder.modules()]
    if decoder.training and any(checkpointed):
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
        adapter = _adapter(chosen, ALL_ATTENTION_FUNCTIONS.get(chosen), shared=True)
        if adapter is None or (chosen == "sdpa" and is_torch_npu_available()):
            raise UnsupportedError(
                f"mass is not known to reach the attention implementation {chosen!r}: use "
                "model.set_attn_implementation('sdpa'), or mass='none'"
            )
        if distance and adapter is _add_as_features:
            raise UnsupportedError(_NO_FLASH)
    if any(hasattr(module, "indexer") for module in decoder.modules()):
        raise UnsupportedError(
            f"{name} has layers that choose the tokens they attend to, and copies would change "
            "the choice: use mass='none'"
        )


def takes_distance(model: Any) -> bool:
    """Whether the distance term is exact in a model, with its attention implementation."""
    try:
        check_attention(model, distance=True)
    except UnsupportedError:
        return False
    return True


def _configs(model: Any, decoder: Any) -> list[Any]:
    """All configs that name an attention implementation of the language model's layers or masks."""
    of_modules = [getattr(module, "config", None) for module in decoder.modules()]
    found = [model.config.get_text_config(), *of_modules]
    naming = [config for config in found if hasattr(config, "_attn_implementation")]
    return list({id(config): config for config in naming}.values())


class _InterfacePatch:
    """Patches the lookup of attention and mask functions in transformers.

    The patch is installed while any call, in any thread, has a key bias or is watched. A call
    without gets the unchanged functions.
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
                found = function(interface, chosen, default)
                if _WATCH.get() is not None and getattr(found, "func", None) is not _watched:
                    found = functools.partial(_watched, found)
                if _KEY_BIAS.get() is None or getattr(found, "func", None) is _biased_attention:
                    return found
                shared = interface is ALL_ATTENTION_FUNCTIONS
                return functools.partial(_biased_attention, chosen, found, shared)

            def getitem(interface: Any, chosen: str) -> Any:
                found = mask(interface, chosen)
                return found if _MASK_BIAS.get() is None else functools.partial(_make_mask, found)

            self._function, self._ours = function, (get_interface, getitem)
            self._mask = vars(AttentionMaskInterface).get("__getitem__")
            setattr(AttentionInterface, "get_interface", get_interface)  # noqa: B010
            setattr(AttentionMaskInterface, "__getitem__", getitem)  # noqa: B010

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            # Functions that other code has installed in the meantime stay.
            if AttentionInterface.get_interface is self._ours[0]:
                setattr(AttentionInterface, "get_interface", self._function)  # noqa: B010
            if AttentionMaskInterface.__getitem__ is self._ours[1]:
                delattr(AttentionMaskInterface, "__getitem__")
                if self._mask is not None:
                    setattr(AttentionMaskInterface, "__getitem__", self._mask)  # noqa: B010


_interfaces = _InterfacePatch()


def _make_mask(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The mask as a tensor where a key bias will be added to it, even if it is purely causal."""
    key_bias, config = _MASK_BIAS.get(), kwargs.get("config")
    if key_bias is not None and (config is None or id(config) in key_bias.decoder.configs):
        kwargs["allow_is_causal_skip"] = False
    return make(*args, **kwargs)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _biased_attention(
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
    """An attention function for transformers: the chosen one, with the key bias applied.

    It is not compiled and looks the bias up in every call: a compiled graph would keep the bias of
    an earlier call.
    """
    key_bias = _KEY_BIAS.get()
    if key_bias is None or id(module) not in key_bias.decoder.modules:
        return function(module, query, key, value, attention_mask, **kwargs)
    adapter = _adapter(chosen, function, shared)
    if adapter is None:
        raise UnsupportedError(
            f"mass is not known to reach the {chosen} attention of {type(module).__name__}: use "
            "model.set_attn_implementation('sdpa'), or mass='none'"
        )
    key_bias.check_not_rerun()
    key_bias.used_layers.add(id(module))
    return adapter(function, key_bias, module, query, key, value, attention_mask, **kwargs)


def _add_to_mask(
    function: Callable[..., Any],
    key_bias: LayerBias,
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
    mask = key_bias.mask(module, mask, query, key, causal)
    return function(module, query, key, value, mask, **kwargs)


def _add_as_score(
    function: Callable[..., Any],
    key_bias: LayerBias,
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
    bias = key_bias.bias(module, query, key)[:, None].expand(-1, *query.shape[1:3], -1)
    if kwargs.get("position_bias") is not None:
        bias = bias + kwargs["position_bias"]
    return function(module, query, key, value, mask, **kwargs | {"position_bias": bias})


def _add_as_features(
    function: Callable[..., Any],
    key_bias: LayerBias,
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
    if isinstance(key_bias, KeyBias) and key_bias.distance is not None:
        raise UnsupportedError(_NO_FLASH)
    d, width = query.shape[-1], value.shape[-1]
    scaling = kwargs.get("scaling") or d**-0.5
    query, key = as_features(query, key, key_bias.bias(module, query, key)[:, 0], scaling)
    value = torch.nn.functional.pad(value, (0, d + FEATURES - width))
    out, *rest = function(module, query, key, value, mask, **kwargs | {"scaling": scaling})
    return out[..., :width], *rest


_ADAPTERS: dict[Callable[..., Any], Callable[..., Any]] = {
    sdpa_attention_forward: _add_to_mask,
    flex_attention_forward: _add_as_score,
    flash_attention_forward: _add_as_features,  # every flash attention version and hub kernel
}


def _adapter(
    chosen: str, function: Callable[..., Any] | None, shared: bool
) -> Callable[..., Any] | None:
    """How to apply the bias in an attention function; None if that is not known.

    Other libraries wrap the functions that all models share (kvpress does so on import). A wrapped
    function is expected to take the same arguments as the function of transformers of that name.
    """
    if chosen == "eager":  # every model has its own eager function
        return _add_to_mask
    if function is not None and shared and function not in _ADAPTERS:
        known: Mapping[str, Any] = type(ALL_ATTENTION_FUNCTIONS)._global_mapping
        function = known.get(chosen)
    return None if function is None else _ADAPTERS.get(function)
