"""A question about one photograph, answered with all of its tokens and with the kept ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from PIL.Image import Image

from otprune.asking.drawing import Grid
from otprune.asking.grid import grid_of
from otprune.asking.images import Photo
from otprune.asking.models import Loaded, answer_of, prompt
from otprune.asking.stages import InEncoder, InLayers, in_encoder, in_layers, staged_selection
from otprune.engines.common.layer_stage import LayerStage
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers import prune, visual_tokens
from otprune.engines.transformers.memory import cache_bytes, cache_of
from otprune.engines.transformers.positions import Positions
from otprune.errors import UnsupportedError
from otprune.flops import prefill_flops
from otprune.selectors import Selection
from otprune.selectors.preset import Pruning

A = TypeVar("A")


@dataclass(frozen=True)
class Side:
    """The answer and the cost of one way of answering, with or without pruning.

    Attributes:
        answer: the model's answer.
        tokens: visual tokens that the language model saw.
        prompt_tokens: all tokens of its prompt.
        prefill_flops: by formula; None if the model's sizes are not known.
        first_token_seconds: median, from the image's pixels to the first token: encoder,
            selection, prefill.
        cache_bytes: keys and values of the prompt, measured; None without such a cache.
    """

    answer: str
    tokens: int
    prompt_tokens: int
    prefill_flops: float | None
    first_token_seconds: float
    cache_bytes: int | None


@dataclass(frozen=True)
class Asked:
    """One photograph's answers.

    Attributes:
        note: which of several images in the file it is; empty for one image.
        selector_seconds: median time of the selection in front of the language model, a part of
            `pruned.first_token_seconds`.
        positions: "preserved" or "compact"; None if no token was dropped.
        encoder: the selection inside the encoder, its time a median too; None without one.
        layers: what each cut inside the language model kept; empty without one.
        grid: the grid of the tokens; None if not requested.
    """

    photo: Photo
    note: str
    full: Side
    pruned: Side
    selector_seconds: float
    selection: Selection
    positions: str | None
    grid: Grid | None
    encoder: InEncoder | None = None
    layers: Sequence[InLayers] = ()


def check(loaded: Loaded, image: Image, question: str, with_grid: bool) -> None:
    """Check a photograph before it is asked about.

    Raises:
        OTPruneError: the processor refuses it.
        UnsupportedError: `with_grid`, and its tokens cannot be drawn.
    """
    inputs = prompt(loaded, image, question)
    if with_grid:
        grid_of(loaded.name, loaded.model, loaded.processor, inputs, image.size)


def ask(
    loaded: Loaded,
    photo: Photo,
    image: Image,
    note: str,
    question: str,
    how: Pruning,
    *,
    stage: EncoderStage | None,
    layers: LayerStage | None = None,
    positions: Positions,
    repeats: int,
    max_new_tokens: int,
    with_grid: bool,
    doing: Callable[[str], None],
) -> Asked:
    """Answer both ways, then time both ways in turn; the answers are the warm-up.

    Raises:
        UnsupportedError: the model's tokens cannot be pruned, or drawn if `with_grid`.
    """
    model = loaded.model
    inputs = prompt(loaded, image, question)
    grid = None
    if with_grid:
        grid = grid_of(loaded.name, model, loaded.processor, inputs, image.size)
    length = inputs["input_ids"].shape[1]

    doing(f"{photo.short}: answering with every token")
    words = answer_of(loaded, generate(model, inputs, max_new_tokens).sequences, length)
    doing(f"{photo.short}: answering with the kept tokens")
    with prune(model, positions=positions, encoder=stage, layers=layers, **how) as run:
        out = generate(model, inputs, max_new_tokens)
        item, inside = only(loaded, run.last), in_encoder(run.encoder)
        cuts = in_layers(run.layers)
    pruned_words = answer_of(loaded, out.sequences, length)

    doing(f"{photo.short}: timing")
    whole, cut, selecting, within = [], [], [], []
    for _ in range(repeats):
        seconds, whole_cache = _first_token(model, inputs)
        whole.append(seconds)
        with prune(model, positions=positions, encoder=stage, layers=layers, **how) as run:
            seconds, cut_cache = _first_token(model, inputs)
        cut.append(seconds)
        selecting.append(only(loaded, run.last).seconds)
        within.append(sum(call.seconds for call in run.encoder))

    doing(f"{photo.short}: measuring distances")
    dropped = item.before - item.after
    sides = [
        Side(text, tokens, n, _flops(model, n, some), statistics.median(times), cache)
        for text, tokens, n, some, times, cache in (
            (words, item.before, length, (), whole, whole_cache),
            (pruned_words, item.after, length - dropped, cuts, cut, cut_cache),
        )
    ]
    if inside is None:
        selection = how["selector"].explain(item.features, cues=item.cues)
    else:
        inside = replace(inside, seconds=statistics.median(within))
        assert item.features is not None
        unpruned = only(loaded, visual_tokens(model, inputs))
        selection = staged_selection(unpruned.features, item.features, item.indices, item.masses)
    return Asked(
        photo=photo,
        note=note,
        full=sides[0],
        pruned=sides[1],
        selector_seconds=statistics.median(selecting),
        selection=selection,
        positions=run.positions,
        grid=grid,
        encoder=inside,
        layers=cuts,
    )


def only(loaded: Loaded, items: Sequence[A] | None) -> A:
    """The only image of a call."""
    if not items or len(items) != 1:
        raise UnsupportedError(
            f"{loaded.name} made {len(items or [])} images of one photograph: expected one"
        )
    return items[0]


def generate(model: Any, inputs: dict[str, Any], max_new_tokens: int) -> Any:
    """Greedy decoding, so that the two answers differ only because of the tokens."""
    return model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
    )


def _first_token(model: Any, inputs: dict[str, Any]) -> tuple[float, int | None]:
    """Seconds to the first token, and the bytes of the cache that the prompt left."""
    wait(model.device)
    start = time.perf_counter()
    out = generate(model, inputs, 1)
    wait(model.device)
    return time.perf_counter() - start, cache_bytes(cache_of(out)) or None


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def _flops(model: Any, n: int, cuts: Sequence[InLayers]) -> float | None:
    """The literature's formula with the sizes of the language model; None if they are not known.

    Layers behind a cut are counted with the tokens that they see.
    """
    config = model.config.get_text_config()
    sizes = [
        getattr(config, name, None)
        for name in ("num_hidden_layers", "hidden_size", "intermediate_size")
    ]
    if not all(isinstance(size, int) for size in sizes):
        return None
    layers, hidden, intermediate = sizes
    ends = [*(cut.layer for cut in cuts), layers]
    total, first = 0.0, 0
    for seen, end in zip([n, *(cut.prompt for cut in cuts)], ends, strict=True):
        total += prefill_flops(end - first, hidden, intermediate, seen)  # type: ignore[operator,arg-type]
        first = end  # type: ignore[assignment]
    return total
