"""A selection inside a vision encoder, for the calls of one context.

The encoder and its layers are called as ever. During a call with an `EncoderStage` their `forward`
are replaced by functions that look up the stage of the context, so other threads, and calls without
a stage, are unaffected; afterwards nothing is left. The tokens are selected in one layer, between
its attention and its MLP. From there on this MLP and each layer get the rows of the kept tokens,
with masks, positions and packed borders to match, and give back a whole grid: a dropped token takes
the feature of the kept one that it belongs to. Hidden states, features of inner layers, deepstack
levels, mergers and projectors therefore need no changes.

A mass of n equals n literal copies of the token at its place that see each other. A layer in which
the mass would be lost raises an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from otprune.engines.common.arguments import named
from otprune.engines.common.short import Short, applied, short_of
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.attention import Decoder, apply_key_bias, checkpointing
from otprune.engines.transformers.bias import as_mask
from otprune.engines.transformers.following import PACK, followed
from otprune.engines.transformers.packing import packed_origins
from otprune.engines.transformers.short import shortened
from otprune.engines.transformers.towers import Tower, inside_of, layers_of, side_of, tower_of
from otprune.errors import UnsupportedError
from otprune.measures.cells import Cells


@dataclass(frozen=True)
class Staged:
    """What one call of an encoder kept of its attention sets (images, tiles or frames).

    cells: of each set, in the order of the encoder's output; of blocks, if the model combines
        tokens behind the encoder.
    layer, layers: index of the layer of the selection, and number of all layers.
    seconds: time of the selection.
    origins: for each image the token of the encoder's output, counted through all sets, that each
        token of the prompt shows, -1 for rows that the model adds; where the model packs tiles into
        images in a method of its own. None elsewhere.
    """

    cells: list[Cells]
    layer: int
    layers: int
    seconds: float
    origins: list[Tensor] | None = None


@contextmanager
def staged(model: Any, stage: EncoderStage) -> Iterator[list[Staged]]:
    """Inside, in this thread and context only, a model's vision encoder applies a stage.

    Args:
        model: a model with one vision encoder of a known class, or such an encoder.

    Returns:
        A list to which every call of the encoder adds what it kept.

    Raises:
        UnsupportedError: the encoder or a call of it cannot be pruned correctly; says why.
        OTPruneError: `stage.after` does not fit the encoder.
    """
    tower, row = tower_of(model)
    layers = layers_of(tower, row)
    first = stage.layer(len(layers))
    side = side_of(getattr(model, "config", None))
    places = {id(layer): i for i, layer in enumerate(layers)}
    inside = inside_of(layers[first], row)
    plan = _Plan(stage, tower, row, side, first, inside, len(layers), places, Decoder(tower))
    with followed(model, tower, [*layers[first:], *inside], plan):
        yield plan.calls


def check_stage(model: Any, stage: EncoderStage) -> None:
    """Raise what `staged` would raise before any call."""
    tower, row = tower_of(model)
    layers = layers_of(tower, row)
    inside_of(layers[stage.layer(len(layers))], row)


@dataclass(eq=False)
class _Plan:
    """A stage for the calls of one encoder in one context.

    first: index of the layer in which the tokens are selected.
    inside: its MLP, and the norm in front of it.
    """

    stage: EncoderStage
    tower: Any
    row: Tower
    side: int
    first: int
    inside: tuple[Any, Any]
    layers: int
    places: dict[int, int]
    decoder: Decoder
    calls: list[Staged] = field(default_factory=list)

    def call(
        self,
        module: Any,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if name == PACK:
            return _call_pack(self, module, function, args, kwargs)
        if module is self.tower:
            return _call_tower(self, function, args, kwargs)
        norm, mlp = self.inside
        if module is norm:
            return _call_norm(self, function, args, kwargs)
        if module is mlp:
            return _call_mlp(self, function, args, kwargs)
        place = self.places.get(id(module))
        if place is None or place < self.first:
            return function(*args, **kwargs)
        return _call_layer(self, module, place, function, args, kwargs)


@dataclass(eq=False)
class _Call:
    """A running call of a plan's encoder.

    arguments: of the call.
    short: what was kept; None for every token.
    cut: which of the norm and the MLP of the layer of the selection have been called.
    """

    plan: _Plan
    arguments: Mapping[str, Any]
    short: Short | None = None
    cut: list[str] = field(default_factory=list)


_CALL: ContextVar[_Call | None] = ContextVar("otprune_encoder_call", default=None)


def _call_pack(
    plan: _Plan,
    model: Any,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Pack an encoder's output into images, and see which of its tokens went where."""
    given = named(model, args, kwargs, PACK)
    total = sum(x.shape[:-1].numel() for x in given["image_features"])
    if plan.calls and sum(len(one.cell) for one in plan.calls[-1].cells) == total:
        plan.calls[-1] = replace(plan.calls[-1], origins=packed_origins(function, given))
    return function(*args, **kwargs)


def _call_tower(
    plan: _Plan, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    token = _CALL.set(_Call(plan, named(plan.tower, args, kwargs)))
    try:
        return function(*args, **kwargs)
    finally:
        _CALL.reset(token)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _call_layer(
    plan: _Plan,
    layer: Any,
    place: int,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    name = type(plan.tower).__name__
    if layer.training and getattr(layer, "gradient_checkpointing", False):
        raise UnsupportedError(
            f"{name} with gradient checkpointing: its layers run again after the call, without "
            "the stage: call gradient_checkpointing_disable() on the encoder, or prune without "
            "encoder="
        )
    given = named(layer, args, kwargs)
    call = _CALL.get()
    if call is None or call.plan is not plan:
        raise UnsupportedError(
            f"a layer of {name} was called by itself, so what its tokens show is not known: call "
            "the encoder, or prune without encoder="
        )
    if place == plan.first:
        call.short, call.cut = None, []
        out = function(*args, **kwargs)
        if call.cut != ["norm", "mlp"]:
            raise UnsupportedError(
                f"a layer of {name} called {' and '.join(call.cut) or 'nothing'} where its norm "
                "and then its MLP were expected, so where to select is not known: prune without "
                "encoder="
            )
        return out if call.short is None else applied(call.short.spread, out)
    short = call.short
    if short is None:
        return function(*args, **kwargs)
    if "position_ids" in given and "flash" in str(plan.tower.config._attn_implementation):
        raise UnsupportedError(
            f"{name} with flash attention: this release of transformers finds the borders of its "
            "packed images by their positions, and dropped tokens would look like borders: use "
            "set_attn_implementation('sdpa') on the encoder, or prune without encoder="
        )
    given = {key: shortened(key, value, short, name) for key, value in given.items()}
    if not plan.stage.mass:
        return applied(short.give_back, function(**given))
    bias = TowerBias(plan.decoder, short.log_mass)
    with apply_key_bias(bias):
        out = function(**given)
    bias.check_used()
    return applied(short.give_back, out)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _call_norm(
    plan: _Plan, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Select, in the layer of the selection, among the states behind its attention."""
    call = _CALL.get()
    if call is not None and call.plan is plan:
        call.cut.append("norm")
        (hidden,) = (*args, *kwargs.values())
        call.short = _select(call, hidden)
    return function(*args, **kwargs)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _call_mlp(
    plan: _Plan, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The MLP of the layer of the selection, of kept tokens alone."""
    call = _CALL.get()
    if call is None or call.plan is not plan:
        return function(*args, **kwargs)
    call.cut.append("mlp")
    if call.short is None:
        return function(*args, **kwargs)
    (hidden,) = (*args, *kwargs.values())
    return call.short.give_back(function(call.short.take(hidden)))


def _select(call: _Call, hidden: Tensor) -> Short | None:
    """Select tokens of the sequences that enter a layer; None if all of them are kept."""
    plan = call.plan
    rows, n = hidden.shape[:-1] if hidden.ndim == 3 else (1, len(hidden))
    layout = plan.row.layout(plan.tower, call.arguments, (rows, n), plan.side)
    flat = hidden.detach().reshape(rows * n, -1)
    units = [some.to(flat.device) for some in layout.units]
    sets = [flat[some].mean(dim=1) if some.shape[1] > 1 else flat[some[:, 0]] for some in units]
    full = [i for i, some in enumerate(units) if len(some)]
    made, seconds = plan.stage.cells([sets[i] for i in full])
    by_set = dict(zip(full, made, strict=True))
    cells = [by_set.get(i) or Cells.whole(0, flat.device) for i in range(len(units))]
    plan.calls.append(Staged(cells, plan.first, plan.layers, seconds))
    if all(one.is_whole for one in cells):
        return None
    return short_of(layout.special.to(flat.device), units, cells, rows, n)


# -- mass ---------------------------------------------------------------------------------------


class TowerBias:
    """The log masses of one encoder's sequences, as a bias on the keys of one of its layers.

    Attention may be computed in parts (images, frames, windows), in the order of the tokens: each
    part takes the next keys. It stands where a `KeyBias` of a language model does.
    """

    def __init__(self, encoder: Decoder, log_mass: Tensor) -> None:
        self.decoder = encoder
        self.used_layers: set[int] = set()
        self._log_mass = log_mass
        self._next = 0
        self._checkpointing = checkpointing()

    def bias(self, layer: Any, query: Tensor, key: Tensor) -> Tensor:
        """`(B, 1, keys)` float32, of the next keys."""
        first, self._next = self._next, self._next + key.shape[-2]
        part = self._log_mass[:, first : self._next]
        if len(part) != len(query) or part.shape[1] != key.shape[-2]:
            raise UnsupportedError(
                f"{self._name} attends to {tuple(key.shape)} keys where {tuple(part.shape)} masses "
                "are left: use EncoderStage(mass=False), or prune without encoder="
            )
        return part.to(query.device).unsqueeze(1)

    def mask(
        self, layer: Any, mask: Tensor | None, query: Tensor, key: Tensor, causal: bool
    ) -> Tensor:
        """The layer's mask plus the bias; encoders attend in both directions."""
        return as_mask(mask, self.bias(layer, query, key), query, causal=False)

    def check_not_rerun(self) -> None:
        """Raise UnsupportedError if the layer will be recomputed after the call has ended."""
        if checkpointing() != self._checkpointing:
            raise UnsupportedError(
                f"{self._name} with activation checkpointing: its layers run again after the call, "
                "without the stage: prune without encoder="
            )

    def check_used(self) -> None:
        """Raise UnsupportedError unless attention has taken the masses of all keys."""
        if self._next != self._log_mass.shape[1]:
            raise UnsupportedError(
                f"{self._name} does not attend through transformers' attention interface alone, "
                "so masses would be lost: use EncoderStage(mass=False), or prune without encoder="
            )

    @property
    def _name(self) -> str:
        return f"the encoder ({self.decoder.config.model_type})"
