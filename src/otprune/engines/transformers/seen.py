"""What the vision encoder knows about its tokens: the cues that methods take from it.

During a call whose method uses such cues, the encoder is followed in this thread and context only.
Its output, and the queries and keys of one layer, are read as they pass by; no option of the model
is changed, so every attention implementation serves. The layer is the one that produced the
features: of `vision_feature_layer` (the deepest, if it names several), or the last one where the
model takes the encoder's last output. If that attends within windows, it is the last layer
before it that does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.attention import watch_attention
from otprune.engines.transformers.following import PACK, POOL, followed, named, packed_origins
from otprune.engines.transformers.saliency import Part, parts_of, received
from otprune.engines.transformers.towers import Layout, Tower, layers_of, side_of, tower_of
from otprune.errors import UnsupportedError
from otprune.selectors import Cues

SEEN = frozenset({"saliency", "keys", "encoded", "grid"})
_ATTENTION = frozenset({"saliency", "keys"})

_INSTEAD = "use a method that does without"
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
class Seen:
    """The cues of the attention sets (images, tiles or frames) of one call of an encoder.

    sets: of each set, in the order of the encoder's output; of blocks, if the model combines tokens
        behind the encoder. In `grid` the tile is the number of the set.
    sizes: number of tokens of each set.
    lacking: why a cue is not among them, by name.
    origins: see `Staged`.
    images: of each image, where the model packs tiles into images and makes them smaller, so that
        one token is a mix of several: the same mix of their cues, and no grid.
    added: number of rows that the model adds at the end of each video.
    """

    sets: list[Cues]
    sizes: list[int]
    lacking: dict[str, str]
    origins: list[Tensor] | None = None
    images: list[Cues] | None = None
    added: int = 0


@dataclass(frozen=True)
class _Source:
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
    name, cues = type(model).__name__, _list(needed or wanted)
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
                f"already: pass pixels, or {_INSTEAD}"
            )
        _source(model, needed or wanted, given)
    except UnsupportedError:
        if needed:
            raise
        return frozenset()
    return wanted


@contextmanager
def seeing(model: Any, wanted: Collection[str], given: Mapping[str, Any]) -> Iterator[list[Seen]]:
    """Inside, in this thread and context only, the cues of a model's vision encoder are collected.

    Args:
        model: a supported model.
        wanted: names out of `SEEN`; nothing else is computed.
        given: the arguments of the model's call.

    Returns:
        A list to which every call of the encoder adds what it saw.

    Raises:
        UnsupportedError: the cues of this model cannot be read; says why.
    """
    eye = _Eye(_source(model, wanted, given), frozenset(wanted))
    layers = [eye.source.layer] if _ATTENTION & eye.wanted else []
    with followed(model, eye.source.tower, layers, eye):
        yield eye.calls


def _list(cues: Collection[str]) -> str:
    return " and ".join(sorted(cues))


def _source(model: Any, wanted: Collection[str], given: Mapping[str, Any]) -> _Source:
    name, cues = type(model).__name__, _list(wanted)
    purpose = f"{cues} of its vision encoder ({{}}) cannot be read"
    tower, row = tower_of(model, purpose, _INSTEAD)
    kind = getattr(model.config, "model_type", "")
    reads = "last" if model is tower else _READS.get(kind)
    if reads is None:
        raise UnsupportedError(
            f"{name}: {cues} cannot be read, since it is not known that each of its tokens is one "
            f"of its vision encoder's: {_INSTEAD}"
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
            f"before the features: {_INSTEAD}"
        )
    strategy = given.get("vision_feature_select_strategy")
    if strategy is None:
        strategy = getattr(model.config, "vision_feature_select_strategy", None)
    dropped = 1 if strategy == "default" or kind == "vipllava" else 0
    return _Source(tower, row, side_of(model.config), state, layers[layer], dropped)


@dataclass(eq=False)
class _Call:
    """A running call of an encoder: its arguments, and what its layer's attention was given."""

    arguments: Mapping[str, Any]
    attended: list[tuple[Tensor, Tensor, Any, Mapping[str, Any]]] = field(default_factory=list)


_CALL: ContextVar[_Call | None] = ContextVar("otprune_seen_call", default=None)


@dataclass(eq=False)
class _Eye:
    """Follows one encoder in one context."""

    source: _Source
    wanted: frozenset[str]
    calls: list[Seen] = field(default_factory=list)

    def call(
        self,
        module: Any,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if name == PACK:
            return self._pack(module, function, args, kwargs)
        if name == POOL:
            if self.calls:
                self.calls[-1] = _pooled(function, self.calls[-1])
            return function(*args, **kwargs)
        if module is self.source.tower:
            return self._tower(function, args, kwargs)
        call = _CALL.get()
        if call is None or module is not self.source.layer:
            return function(*args, **kwargs)
        return _watched(call, function, args, kwargs)

    def _pack(
        self,
        model: Any,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        given = named(model, args, kwargs, PACK)
        total = sum(x.shape[:-1].numel() for x in given["image_features"])
        if self.calls:
            seen = self.calls[-1]
            if sum(seen.sizes) != total:
                self.calls[-1] = replace(seen, images=[])
            elif (origins := packed_origins(function, given)) is not None:
                self.calls[-1] = replace(seen, origins=origins)
            else:
                self.calls[-1] = _packed(type(model).__name__, function, given, seen)
        return function(*args, **kwargs)

    def _tower(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = _Call(named(self.source.tower, args, kwargs))
        token = _CALL.set(call)
        try:
            out = function(*args, **kwargs)
        finally:
            _CALL.reset(token)
        self.calls.append(self._seen(call, out))
        return out

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _seen(self, call: _Call, out: Any) -> Seen:
        source, last = self.source, out.last_hidden_state
        rows, n = last.shape[:-1] if last.ndim == 3 else (1, len(last))
        layout = source.row.layout(source.tower, call.arguments, (rows, n), source.side)
        flat: dict[str, Tensor] = {}
        lacking: dict[str, str] = {}
        if "encoded" in self.wanted:
            states = last if source.state is None else out.hidden_states[source.state]
            flat["encoded"] = states.detach().reshape(rows * n, -1)
        if _ATTENTION & self.wanted:
            try:
                parts = _parts(call, rows, n)
                if "keys" in self.wanted:
                    every = torch.cat([part.key for part in parts], dim=2)
                    flat["keys"] = every.transpose(1, 2).flatten(0, 1)
                if "saliency" in self.wanted:
                    flat["saliency"] = _saliency(parts, layout, rows, n)
            except UnsupportedError as error:
                missing = _ATTENTION & self.wanted - set(flat)
                lacking = dict.fromkeys(missing, f"{type(source.tower).__name__}: {error}")
        sets, sizes = [], []
        for i, (units, places) in enumerate(zip(layout.units, layout.places, strict=True)):
            cues = {name: _mean_of_blocks(x, units) for name, x in flat.items()}
            if "grid" in self.wanted:
                tile = torch.full((len(places), 1), i)
                cues["grid"] = torch.cat([tile, places], dim=1).to(last.device)
            row = int(units[0, 0]) // n if len(units) else -1
            ahead = max(0, len(_special(layout, row, n)) - source.dropped)
            sets.append(Cues(**{name: _added(x, ahead, name) for name, x in cues.items()}))
            sizes.append(ahead + len(units))
        return Seen(sets, sizes, lacking)


def _packed(name: str, function: Callable[..., Any], given: dict[str, Any], seen: Seen) -> Seen:
    """The cues packed as their tokens are; see `packed_origins`. Rows that are added have 0."""
    tiles = given["image_features"]
    every = Cues.joined(seen.sets)
    made: dict[str, list[Tensor]] = {}
    for cue in every.names - {"grid"}:
        x = getattr(every, cue)
        flat = x.flatten(start_dim=1) if x.ndim > 1 else x.unsqueeze(1)
        parts = flat.split([tile.shape[:-1].numel() for tile in tiles])
        new: dict[str, Any] = {
            "image_features": [
                part.view(*tile.shape[:-1], -1) for part, tile in zip(parts, tiles, strict=True)
            ]
        }
        if given.get("image_newline") is not None:
            new["image_newline"] = flat.new_zeros(flat.shape[1])
        made[cue] = [one.view(len(one), *x.shape[1:]) for one in function(**given | new)[0]]
    images = [Cues(**{cue: made[cue][i] for cue in made}) for i in range(len(tiles))]
    lacking = dict(seen.lacking)
    if every.grid is not None:
        lacking["grid"] = (
            f"{name}: it resizes an image of this call, whose tokens have no one place"
        )
    return replace(seen, images=images, lacking=lacking)


def _pooled(pool: Callable[..., Any], seen: Seen) -> Seen:
    """The cues pooled as the frames of videos are, each to a square, with a row behind each video.

    Pooling is linear: a token gets the mix of cues that its features are the mix of.
    """
    frames, every = len(seen.sets), Cues.joined(seen.sets)
    number = pool(torch.zeros(1, seen.sizes[0], 1)).shape[1]
    made: dict[str, Tensor] = {}
    for cue in every.names - {"grid"}:
        x = getattr(every, cue)
        made[cue] = pool(x.reshape(frames, seen.sizes[0], -1)).view(frames, number, *x.shape[1:])
    if every.grid is not None:
        side = torch.arange(math.isqrt(number), device=every.grid.device)
        made["grid"] = torch.cartesian_prod(torch.arange(frames).to(side), side, side)
        made["grid"] = made["grid"].view(frames, number, 3)
    sets = [Cues(**{cue: x[i] for cue, x in made.items()}) for i in range(frames)]
    return replace(seen, sets=sets, sizes=[number] * frames, added=1)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _watched(
    call: _Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A layer, and what its attention is given."""
    call.attended.clear()

    def watch(module: Any, query: Tensor, key: Tensor, mask: Any, given: Mapping[str, Any]) -> None:
        call.attended.append((query.detach(), key.detach(), mask, given))

    with watch_attention(watch):
        return function(*args, **kwargs)


def _parts(call: _Call, rows: int, n: int) -> list[Part]:
    """What the layer's attention was given, of sequences `(rows, n)`."""
    parts: list[Part] = []
    for given in call.attended:
        parts += parts_of(parts[-1].stop if parts else 0, *given)
    if not parts or parts[-1].stop != n or len(parts[0].key) != rows:
        raise UnsupportedError("it does not attend through transformers' attention interface alone")
    return parts


def _special(layout: Layout, row: int, n: int) -> Tensor:
    """`(s,)`: the special tokens of one sequence, counted in it."""
    return layout.special[layout.special // n == row] - row * n


def _saliency(parts: list[Part], layout: Layout, rows: int, n: int) -> Tensor:
    """`(rows * n,)` float32."""
    flat = parts[0].key.new_zeros(rows * n, dtype=torch.float32)
    for units in layout.units:
        if len(units):
            tokens = units.reshape(-1)
            row = int(tokens[0]) // n
            special = _special(layout, row, n)
            first = int(special[0]) if len(special) else None
            flat[tokens.to(flat.device)] = received(parts, row, tokens - row * n, first)
    return flat


def _mean_of_blocks(flat: Tensor, units: Tensor) -> Tensor:
    """`(U, ...)` float32: the mean over the tokens of each block."""
    rows = flat[units.to(flat.device)]
    return rows[:, 0].float() if units.shape[1] == 1 else rows.float().mean(dim=1)


def _added(cue: Tensor, number: int, name: str) -> Tensor:
    """The cue with rows in front, of tokens that show no part of the image."""
    fill = -1 if name == "grid" else 0
    return cue if not number else torch.cat([cue.new_full((number, *cue.shape[1:]), fill), cue])


# -- images ----------------------------------------------------------------------------------------


def in_order(sets: Sequence[int], images: Sequence[int]) -> list[range]:
    """Which sets each image consists of, by their lengths; none if they do not fit.

    Args:
        sets: number of tokens of each set.
        images: of each image, of which the first ones consist of all the sets.
    """
    made: list[range] = []
    start = total = 0
    for i, size in enumerate(sets):
        if len(made) == len(images):
            return []
        total += size
        if total == images[len(made)]:
            made.append(range(start, i + 1))
            start, total = i + 1, 0
    return [] if start < len(sets) else made


def cues_of_call(
    model: Any, calls: Sequence[Seen], images: Sequence[Tensor], needs: Collection[str]
) -> list[Cues]:
    """The cues of each image's tokens, the same for all images; without those not known of some.

    Args:
        calls: what each call of the encoder saw.
        images: `(m, d)`, the tokens of each image, in the order in which they were encoded.
        needs: names of the cues that are needed.

    Raises:
        UnsupportedError: a needed one is not known; says why.
    """
    needed = SEEN & set(needs)
    lacking = {name: why for call in calls for name, why in call.lacking.items()}
    for name in sorted(needed & set(lacking)):
        raise UnsupportedError(f"{name} of {lacking[name]}: {_INSTEAD}")
    found = cues_of_images(calls, images)
    if found is None and needed:
        raise UnsupportedError(
            f"{type(model).__name__} mixes the tokens of its vision encoder in this call (it pools "
            f"or resizes them), so {_list(needed)} of its own tokens are not known: {_INSTEAD}"
        )
    if found is None:
        return [Cues()] * len(images)
    return [cues.only(cues.names - set(lacking)) for cues in found]


def cues_of_images(calls: Sequence[Seen], images: Sequence[Tensor]) -> list[Cues] | None:
    """The cues of each image's tokens; None if it is not known which tokens show what.

    Args:
        calls: what each call of the encoder saw.
        images: `(m, d)`, the tokens of each image, in the order in which they were encoded.
    """
    found: list[Cues] = []
    for call in calls:
        more = _images_of(call, [len(x) for x in images[len(found) :]])
        if not more:
            return None
        found += more
    if len(found) != len(images):
        return None
    # The projector may lie on another device than the encoder.
    return [
        cues.each(partial(torch.Tensor.to, device=x.device))
        for cues, x in zip(found, images, strict=True)
    ]


def _images_of(call: Seen, lengths: list[int]) -> list[Cues]:
    """The cues of the first images, of `lengths` tokens; none if the call's do not fit them."""
    if call.images is not None:
        sizes = [next((len(x) for x in cues.given if x is not None), 0) for cues in call.images]
        return call.images if sizes == lengths[: len(sizes)] else []
    origins = call.origins
    if origins is None:
        starts = [sum(call.sizes[:i]) for i in range(len(call.sizes) + 1)]
        behind = torch.full((call.added,), -1)
        origins = [
            torch.cat([torch.arange(starts[some.start], starts[some.stop]), behind])
            for some in in_order(call.sizes, [length - call.added for length in lengths])
        ]
    if [len(x) for x in origins] != lengths[: len(origins)]:
        return []
    every = Cues.joined(call.sets)
    return [_shown(every, x) for x in origins]


def _shown(cues: Cues, origin: Tensor) -> Cues:
    """The cues of one image, whose first tile is 0.

    origin: `(m,)`, the token of `cues` that each of its tokens is; -1 for none.
    """

    def take(x: Tensor) -> Tensor:
        at = origin.to(x.device)
        taken = x[at.clamp(min=0)]
        taken[at < 0] = 0 if x.is_floating_point() else -1
        return taken

    made = cues.each(take)
    if made.grid is not None:
        tile = made.grid[:, 0]
        inside = tile >= 0
        first = tile[inside].min() if bool(inside.any()) else 0
        made.grid[:, 0] = torch.where(inside, tile - first, tile)
    return made
