"""Pruning inside the language model, for the calls of one context.

The model and its layers are called as ever. During a call with a `LayerStage` the `forward` of the
layers concerned are replaced by functions that look up the stage of the context, so other threads,
and calls without a stage, are unaffected. Each layer behind a cut gets the rows of the kept tokens,
with mask and positions to match, and gives back the whole sequence, in which a dropped token has
the hidden state that it brought to the cut. Its part of the KV cache holds the kept tokens alone.

Which tokens those are is recorded beside the prompt (`Memory.deep`), for the calls that continue on
its cache: there every token of the call is new, and only masks are shortened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from otprune.engines.common.arguments import named
from otprune.engines.common.layer_stage import LayerStage
from otprune.engines.transformers.attention import checkpointing, watch_attention
from otprune.engines.transformers.deep_ranks import attention_score, dart, highest, raters
from otprune.engines.transformers.deep_rows import Short, shortened
from otprune.engines.transformers.following import Following
from otprune.engines.transformers.layout import Layout
from otprune.engines.transformers.memory import CACHE_NAMES, Deep, LayerCut, Memory, cache_of
from otprune.engines.transformers.prompt import setting
from otprune.errors import UnsupportedError

_NO_LAYERS = "prune without layers="
# Of generate(): settings that cannot be combined with a layer stage.
_ALONE = {"num_beams": 1, "num_return_sequences": 1, "num_beam_groups": 1}
_WITHOUT = (
    "assistant_model",
    "prompt_lookup_num_tokens",
    "penalty_alpha",
    "dola_layers",
    "prefill_chunk_size",
)


def check_layers(model: Any, stage: LayerStage) -> None:
    """Refuse models whose layers cannot be given fewer tokens.

    Raises:
        UnsupportedError: with the reason.
        OTPruneError: a cut does not fit the number of layers.
    """
    name, decoder = type(model).__name__, model.get_decoder()
    layers, config = getattr(decoder, "layers", None), decoder.config
    if not isinstance(layers, nn.ModuleList):
        raise UnsupportedError(f"{name} has no list of layers in its decoder: {_NO_LAYERS}")
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if not getattr(config, "layer_types", None) and getattr(config, "sliding_window", None):
        kinds = {"sliding_attention"}
    if not all(hasattr(layer, "self_attn") for layer in layers):
        raise UnsupportedError(f"{name} has layers without attention of their own: {_NO_LAYERS}")
    if kinds:
        raise UnsupportedError(
            f"{name} has layers of {', '.join(sorted(kinds))}, in which the place of a token in "
            f"the sequence counts, and pruned layers would see other tokens: {_NO_LAYERS}"
        )
    if any(hasattr(module, "indexer") for module in decoder.modules()):
        raise UnsupportedError(
            f"{name} has layers that choose the tokens they attend to: {_NO_LAYERS}"
        )
    if stage.rank == "dart" and not isinstance(getattr(decoder, "norm", None), nn.Module):
        raise UnsupportedError(
            f"{name} has no final norm by that name, which rank='dart' needs: use another rank"
        )
    _check_training(decoder, layers)
    stage.layers(len(layers))


def check_generation(model: Any, arguments: dict[str, Any]) -> None:
    """Raise UnsupportedError for settings of generate() that a layer stage does not work with."""
    for name, only in _ALONE.items():
        if (setting(model, arguments, name) or only) != only:
            raise UnsupportedError(
                f"{name}={setting(model, arguments, name)} with a layer stage: several sequences "
                f"of one prompt are not supported there: leave it out, or {_NO_LAYERS}"
            )
    for name in _WITHOUT:
        if setting(model, arguments, name):
            raise UnsupportedError(
                f"{name} with a layer stage: the prompt must go through the layers at once, and "
                f"the answer token by token: leave it out, or {_NO_LAYERS}"
            )


@contextmanager
def in_layers(model: Any, memory: Memory | None, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Inside, in this thread and context only, a layer stage applies to one call of a model.

    Args:
        model: the model that is called.
        memory: how the prompt was pruned; without a stage none applies, that of an outer call
            included.
        arguments: of the call.

    Raises:
        UnsupportedError: the call cannot be pruned correctly; says why.
    """
    call = None if memory is None or memory.deep is None else _call_of(model, memory, arguments)
    if call is None:
        with _LAYERS.by(None):
            yield
        return
    with _LAYERS.by(call, call.decoder, call.methods):
        yield
    if call.passed != set(call.firsts):
        raise UnsupportedError(
            f"{call.name} did not call the layers behind every cut of a layer stage: {_NO_LAYERS}"
        )
    call.deep.cuts[:] = call.cuts


_LAYERS = Following("otprune_layer_follower")


@dataclass(eq=False)
class _Call:
    """A running call of a language model with a layer stage.

    deep: the stage, and what it kept of the prompt.
    decoder, name: the language model, and the name of the model around it.
    past, new: tokens in the cache, and of the call.
    cuts: what is known of the stage's cuts; they are made in this call if there are none yet.
    checkpointing: see `attention.checkpointing`.
    short: what the current layer gets; None for all tokens.
    score: of the current layer's tokens, `(B, n')`, as it was seen in the layer before.
    words: `(B, r)` tokens and weights that rate, where a rank needs some.
    places: index of each layer, by its id.
    passed: indices of the layers behind a cut that have been called.
    """

    deep: Deep
    decoder: Any
    name: str
    past: int
    new: int
    cuts: list[LayerCut]
    firsts: list[int]
    making: bool
    checkpointing: tuple[bool, Any]
    short: Short | None = None
    score: Tensor | None = None
    words: tuple[Tensor, Tensor] | None = None
    places: dict[int, int] = field(default_factory=dict)
    passed: set[int] = field(default_factory=set)

    @property
    def flash(self) -> bool:
        return "flash" in str(self.decoder.config._attn_implementation)

    @property
    def methods(self) -> list[tuple[Any, str]]:
        layers = list(self.decoder.layers)
        first = self.firsts[0]
        if self.making:
            first = 0 if self.deep.stage.rank == "sparsevlm" else first - 1
        return [(layer, "forward") for layer in layers[first:]]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def call(
        self,
        module: Any,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """A layer's `forward`."""
        place = self.places.get(id(module))
        if place is None:
            return function(*args, **kwargs)
        if self.past and "attention_mask" in kwargs:
            # The same with less to do: of new tokens behind the prompt only the mask is shortened.
            self.reach(place)
            if self.short is not None:
                mask = shortened("attention_mask", kwargs["attention_mask"], self.short, self.name)
                kwargs = kwargs | {"attention_mask": mask}
            return function(*args, **kwargs)
        return _call_layer(self, module, place, function, named(module, args, kwargs))

    def reach(self, place: int) -> None:
        """Take what the layers from here on get, once the cut in front of it is made."""
        if place in self.firsts:
            cut = self.cuts[self.firsts.index(place)]
            self.passed.add(place)
            self.short = None
            if not cut.whole:
                self.short = Short(cut.layout, cut.filled, self.past, self.new, self.flash)
        elif place < self.firsts[0]:
            self.short = None


def _call_of(model: Any, memory: Memory, arguments: Mapping[str, Any]) -> _Call | None:
    decoder, name = model.get_decoder(), type(model).__name__
    ids = arguments.get("input_ids")
    rows, new = (arguments["inputs_embeds"] if ids is None else ids).shape[:2]
    deep = memory.deep if rows == len(memory.ids) else memory.repeated(rows).deep
    assert deep is not None
    cache = cache_of(arguments)
    past = 0 if cache is None else int(cache.get_seq_length())
    making = not deep.cuts
    if making and (past or new != deep.visual.shape[1]):
        raise UnsupportedError(
            f"{name} was not called with the pruned prompt alone, so a layer stage does not know "
            f"its tokens: {_NO_LAYERS}"
        )
    if not making and all(cut.whole for cut in deep.cuts):
        return None
    _check_training(decoder, decoder.layers)
    kinds = {type(layer) for layer in getattr(cache, "layers", ())} - {DynamicLayer}
    if cache is not None and (kinds or not hasattr(cache, "layers")):
        told = ", ".join(sorted(kind.__name__ for kind in kinds)) or type(cache).__name__
        raise UnsupportedError(
            f"a layer stage with a cache of {told}: its layers hold different numbers of tokens, "
            f"which a DynamicCache alone is known to do: use one, or {_NO_LAYERS}"
        )
    layers = list(decoder.layers)
    firsts = deep.stage.layers(len(layers))
    call = _Call(deep, decoder, name, past, new, list(deep.cuts), firsts, making, checkpointing())
    call.places = {id(layer): i for i, layer in enumerate(layers)}
    return call


def _check_training(decoder: Any, layers: Any) -> None:
    if decoder.training and any(getattr(x, "gradient_checkpointing", False) for x in layers):
        raise UnsupportedError(
            "a layer stage with gradient checkpointing: layers run again after the call, without "
            f"the stage: call model.gradient_checkpointing_disable(), or {_NO_LAYERS}"
        )


def _call_layer(
    call: _Call, layer: Any, place: int, function: Callable[..., Any], given: dict[str, Any]
) -> Any:
    if checkpointing() != call.checkpointing:
        raise UnsupportedError(
            "a layer stage with activation checkpointing: layers run again after the call, without "
            f"the stage: checkpoint the whole call, or {_NO_LAYERS}"
        )
    hidden = given["hidden_states"]
    if hidden.shape[:2] != (len(call.deep.visual), call.new):
        raise UnsupportedError(
            f"a layer of {call.name} was called with {tuple(hidden.shape[:2])} tokens, and the "
            f"model with {(len(call.deep.visual), call.new)}: {_NO_LAYERS}"
        )
    if place == 0 and call.making and call.deep.stage.rank == "sparsevlm":
        call.words = _words(call, hidden)
    if call.making and place in call.firsts:
        call.cuts.append(_cut(call, call.firsts.index(place), function, given))
    call.reach(place)
    short = call.short
    if short is not None:
        given = {key: shortened(key, value, short, call.name) for key, value in given.items()}
    see = _see(call, place)
    if see is None:
        out = function(**given)
    else:
        with watch_attention(_within(layer, see)):
            out = function(**given)
    if short is None:
        return out
    if isinstance(out, tuple):
        return short.give_back(out[0], hidden), *out[1:]
    return short.give_back(out, hidden)


# -- making a cut --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Now:
    """The tokens that come to a cut, of which the layer in front of it holds n'.

    columns: `(B, n')` int64, their columns in the prompt, -1 where rows are filled up.
    valid, visual: `(B, n')` bool.
    """

    columns: Tensor
    valid: Tensor
    visual: Tensor

    @property
    def last(self) -> Tensor:
        """`(B, 1)` int64: the place of the prompt's last token."""
        place = torch.arange(self.valid.shape[1], device=self.valid.device)
        return (place * self.valid).max(dim=1, keepdim=True).values

    @property
    def text(self) -> Tensor:
        """`(B, n')` bool: the text behind the last visual token."""
        behind = self.visual.flip(1).int().cumsum(1).flip(1) == 0
        return behind & self.valid


def _now(call: _Call) -> _Now:
    deep = call.deep
    if call.short is None:
        columns = torch.arange(call.new, device=deep.visual.device).expand_as(deep.visual)
        return _Now(columns.where(deep.valid, -1), deep.valid, deep.visual)
    layout = call.short.layout
    return _Now(layout.columns, layout.valid, layout.take(deep.visual, 0))


@torch.no_grad()
def _cut(call: _Call, cut: int, function: Callable[..., Any], given: dict[str, Any]) -> LayerCut:
    """Choose the tokens that go on at a cut, given its layer and what that is called with."""
    deep, stage, now, place = call.deep, call.deep.stage, _now(call), call.firsts[cut]
    left = now.visual.sum(dim=1).tolist()
    numbers = stage.numbers(cut, deep.visual.sum(dim=1).tolist(), left)
    kept = torch.tensor(numbers, device=now.visual.device)
    if numbers == left:
        whole = call.short is None
        layout = Layout(now.columns, now.valid, call.new) if whole else call.cuts[-1].layout
        return LayerCut(place, layout, kept, whole, not whole and call.cuts[-1].filled)
    if stage.rank == "vtw":
        chosen = torch.zeros_like(now.visual)
    elif stage.rank == "dart":
        chosen = _dart(call, now, numbers, given["hidden_states"])
    else:
        if stage.rank == "pyramiddrop":
            _look_ahead(call, now, call.decoder.layers[place], function, given)
        chosen = highest(_score(call), now.visual, numbers)
    stays = now.valid & (chosen | ~now.visual)
    keep = torch.zeros(len(stays), call.new + 1, dtype=torch.bool, device=stays.device)
    # Filling is scattered into an extra column, which is cut off.
    keep.scatter_(1, now.columns.where(now.columns >= 0, call.new), stays)
    layout = Layout.packed(keep[:, : call.new], "left")
    return LayerCut(place, layout, kept, False, not bool(layout.valid.all()))


def _see(call: _Call, place: int) -> Callable[[_Seen], None] | None:
    """What to look for in the attention of a layer in front of a cut; None for nothing."""
    rank = call.deep.stage.rank
    if not call.making or place + 1 not in call.firsts or rank in ("vtw", "pyramiddrop"):
        return None
    call.score, now = None, _now(call)
    if rank == "fastv":
        return lambda seen: _take(call, _of_last(seen, now))
    if rank == "dart":
        # Repeated key heads (GQA) multiply every norm by the same factor.
        return lambda seen: _take(call, seen.key.detach().float().abs().sum(dim=(1, 3)))
    rows, weights = _in_row(call, now)
    return lambda seen: _take(call, _attention(seen, now, rows, weights))


@dataclass(frozen=True)
class _Seen:
    """What an attention function was given: `(B, heads, n, d)` and `(B, key heads, n, d)`."""

    query: Tensor
    key: Tensor
    mask: Any
    more: Mapping[str, Any]


def _within(layer: nn.Module, see: Callable[[_Seen], None]) -> Callable[..., None]:
    """Look at the attention of one layer alone."""
    modules = {id(module) for module in layer.modules()}

    def watch(module: Any, query: Tensor, key: Tensor, mask: Any, more: Mapping[str, Any]) -> None:
        if id(module) in modules:
            see(_Seen(query, key, mask, more))

    return watch


def _take(call: _Call, score: Tensor) -> None:
    if call.score is not None:
        raise UnsupportedError(
            f"{call.name} attends more than once in a layer, so rank={call.deep.stage.rank!r} has "
            f"no meaning: use rank='vtw', or {_NO_LAYERS}"
        )
    call.score = score


def _score(call: _Call) -> Tensor:
    if call.score is None:
        raise UnsupportedError(
            f"{call.name} does not attend through transformers' attention interface, which "
            f"rank={call.deep.stage.rank!r} needs: use rank='vtw', or {_NO_LAYERS}"
        )
    return call.score


def _of_last(seen: _Seen, now: _Now) -> Tensor:
    return _attention(seen, now, now.last, torch.ones_like(now.last, dtype=torch.float32))


def _attention(seen: _Seen, now: _Now, rows: Tensor, weights: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast(seen.query.device.type, enabled=False):
        return attention_score(
            seen.query,
            seen.key,
            seen.mask,
            now.valid,
            rows,
            weights,
            seen.more.get("scaling"),
            seen.more.get("softcap"),
        )


class _Enough(Exception):  # noqa: N818 - no error: ends a layer that was run to look into it
    pass


def _look_ahead(
    call: _Call, now: _Now, layer: Any, function: Callable[..., Any], given: dict[str, Any]
) -> None:
    """Run a layer up to its attention, without its cache, and take the score of its tokens."""

    def see(seen: _Seen) -> None:
        call.score = _of_last(seen, now)
        raise _Enough

    call.score = None
    if call.short is not None:
        given = {k: shortened(k, x, call.short, call.name) for k, x in given.items()}
    without = {name: None for name in CACHE_NAMES if name in given}
    with watch_attention(_within(layer, see)), suppress(_Enough):
        function(**given | without)


def _dart(call: _Call, now: _Now, numbers: list[int], hidden: Tensor) -> Tensor:
    norms, text = _score(call), now.text
    if call.short is not None:
        hidden = call.short.take(hidden)
    hidden = call.decoder.norm(hidden)
    visual, text, norms = (x.to(hidden.device) for x in (now.visual, text, norms))
    chosen = torch.zeros_like(visual)
    for b, number in enumerate(numbers):
        chosen[b, dart(norms[b], hidden[b], visual[b], text[b], number)] = True
    return chosen.to(now.visual.device)


@torch.no_grad()
def _words(call: _Call, embeds: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of each prompt that rate, as columns `(B, r)`, and their weights `(B, r)`."""
    now, device = _now(call), embeds.device
    visual, text = now.visual.to(device), now.text.to(device)
    found = [raters(embeds[b], visual[b], text[b]) for b in range(len(embeds))]
    width = max(len(some) for some in found)
    columns = torch.zeros(len(found), width, dtype=torch.int64, device=device)
    weights = torch.zeros(len(found), width, device=device)
    for b, some in enumerate(found):
        columns[b, : len(some)] = some
        weights[b, : len(some)] = 1 / len(some)
    return columns, weights


def _in_row(call: _Call, now: _Now) -> tuple[Tensor, Tensor]:
    """The tokens that rate as places among those that a layer gets, and their weights."""
    assert call.words is not None
    columns, weights = call.words
    if call.short is None:
        return columns, weights
    return torch.searchsorted(now.columns.contiguous(), columns.to(now.columns.device)), weights
