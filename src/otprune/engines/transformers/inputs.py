"""Shrinking the inputs of a call: encode, select, drop the placeholders that were not kept.

Arguments in, arguments out; the model is asked to encode and to place, and is not changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from otprune.engines.common.selection import Choice
from otprune.engines.transformers.encoded import (
    PER_TOKEN,
    Encoded,
    PrunedOutputs,
    encode_call,
    has_images,
)
from otprune.engines.transformers.families import Unit, check
from otprune.engines.transformers.features import ENCODED, Images, with_kept_features
from otprune.engines.transformers.layout import Layout
from otprune.engines.transformers.memory import Memory
from otprune.engines.transformers.positions import (
    Positions,
    check_documents,
    check_gaps,
    compact_positions,
    documents_of,
    full_positions,
    last_of,
    rope_delta,
    takes_positions,
    with_text_index,
)
from otprune.engines.transformers.selection import choose, log_masses, weights_of
from otprune.engines.transformers.settings import Settings, Weigh
from otprune.engines.transformers.versions import Untested
from otprune.errors import OTPruneError, UnsupportedError
from otprune.selectors.results import LazyTensor

if TYPE_CHECKING:
    from otprune.selectors import Selector


@dataclass(frozen=True)
class Pruned:
    """What became of one image or video of a call.

    modality: "image" or "video".
    row: row of the batch that it stands in.
    before, after: tokens (special rows such as anyres newlines included).
    indices: `(after,)` kept tokens among its `before`, ascending.
    masses: `(after,)` share of the full set that each kept token stands for, sums to 1; worked
        out when first asked for.
    features: `(before, d)` its tokens before pruning, without gradient: what the selector saw.
    seconds: time of the selection alone, merging included; a batched selection is shared out
        evenly.
    unit: what these tokens are: "image", "video", or, in the families whose calls do not tell
        where one video ends, one "frame" or "chunk" of a video.
    """

    modality: str
    row: int
    before: int
    after: int
    indices: Tensor
    features: Tensor | None
    seconds: float
    lazy_masses: LazyTensor = field(repr=False)
    unit: Unit = "image"

    @property
    def masses(self) -> Tensor:
        return self.lazy_masses()


@dataclass(frozen=True)
class Shrunk:
    """A pruned call.

    inputs: its new arguments.
    items: what became of each image and video.
    memory: how it was done; None if every token was kept.
    columns: `(B, n)`, the caller's column of each column, see `Layout`.
    """

    inputs: dict[str, Any]
    items: list[Pruned]
    memory: Memory | None
    columns: Tensor


def prune_inputs(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    selector: Selector,
    positions: Positions = "preserved",
    merge: bool = False,
    padding_side: str = "left",
    untested_transformers: Untested = "refuse",
    weights: Weigh | None = None,
) -> dict[str, Any]:
    """The inputs of `model(**inputs)` or `model.generate(**inputs)` with visual tokens pruned.

    For people who drive the model themselves; `prune` does the same around ordinary calls, and can
    give the kept tokens their mass, which is a matter of the model and not of its inputs. Every
    image keeps `selector.count(tokens of that image)` tokens, a video as many over all its frames
    (or each of its parts, where `Pruned.unit` says so), or what a rule makes of them (`Auto` for
    each, `Budget` for all of one prompt); anyres newline rows are tokens like any other.

    Args:
        model: a model that `support` accepts.
        inputs: what the processor returned, `input_ids` `(B, S)` among it; not changed.
        selector: any selector of `otprune.selectors`.
        positions: "preserved" or "compact", see `otprune.engines.transformers.positions`.
        merge: kept tokens become the mean of the tokens that they stand for.
        padding_side: where shorter rows are padded, "left" (generate) or "right".
        untested_transformers, weights: see `Settings`.

    Returns:
        New arguments for one call: `mm_encoder_outputs` instead of pixels, shorter `input_ids`,
        `attention_mask`, `labels` and the like, explicit `position_ids`. With every token kept they
        stay as they came, but for the pixels. Decoding by hand continues at
        `position_ids[..., -1:] + 1`; with `generate(use_cache=False)` ask for compact positions,
        since gaps without a cache are read as packed sequences there.

    Raises:
        UnsupportedError: the model or an argument cannot be pruned; says which and why.
        OTPruneError: placeholders and features differ in number, or an argument is wrong.
        WeightError: as `prune`.
    """
    settings = Settings(
        selector,
        positions,
        merge,
        untested_transformers=untested_transformers,
        weights=weights,
    )
    check(model)
    if padding_side not in ("left", "right"):
        raise OTPruneError(f"padding_side={padding_side!r}: expected 'left' or 'right'")
    if not has_images(inputs):
        return dict(inputs)
    shrunk = shrink(model, inputs, padding_side, settings)
    memory = shrunk.memory
    if memory is not None and bool(
        (memory.last != last_of(memory.positions, memory.layout.valid)).any()
    ):
        raise UnsupportedError(
            "the prompt ends with a visual token that was dropped, and what follows it would be "
            "placed where that one stood: put text behind it, use positions='compact', or a with "
            "block (otprune.prune), which knows its place"
        )
    return shrunk.inputs


def shrink(model: Any, inputs: Mapping[str, Any], padding_side: str, settings: Settings) -> Shrunk:
    """Prune a call that brings images or videos, as settings say.

    Masses are only noted in the memory; attention has to be told of them.

    Args:
        padding_side: "left", "right", or "aligned": every row ends where the caller's does, see
            `Layout.aligned`.
    """
    call = encode_call(model, inputs)
    given, ids, mask, rest = call.given, call.ids, call.mask, call.rest
    mass = settings.mass if settings.has_mass else "none"
    chosen = iter(_choose(settings, call))

    keep = torch.ones_like(ids, dtype=torch.bool)
    log_mass = torch.zeros(ids.shape, device=ids.device)
    outputs, reports = PrunedOutputs(call.outputs), []
    for modality, some in call.images.items():
        at, choices = call.at[modality], [next(chosen) for _ in some.tokens]
        kept = torch.zeros(int(at.sum()), dtype=torch.bool, device=ids.device)
        added = torch.zeros(len(kept), device=ids.device)
        for x, start, choice in zip(some.tokens, some.starts, choices, strict=True):
            here = start + choice.made.indices.to(ids.device)
            kept[here] = True
            if mass != "none":
                added[here] = log_masses(choice, len(x), mass, settings.alpha).to(ids.device)
        keep[at], log_mass[at] = kept, added
        if not kept.all():
            outputs[modality] = with_kept_features(model, call.outputs[modality], some, choices)
        reports += [_report(modality, some, i, choice) for i, choice in enumerate(choices)]
    items = [reports[i] for i in call.prompt_order]

    if bool(keep.all()):
        whole = {key: value for key, value in inputs.items() if key not in ENCODED}
        every = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return Shrunk(whole | {"mm_encoder_outputs": outputs}, items, None, every)

    attended = mask.bool()
    if padding_side == "aligned":
        layout = Layout.aligned(keep, attended)
    else:
        layout = Layout.packed(keep & attended, padding_side)
    full = full_positions(model, given, mask)
    check_gaps(model, settings.positions, full)
    documents = documents_of(given, full)
    check_documents(settings.positions, documents, full, layout.columns < 0)
    new = take_columns(model, rest | {"input_ids": ids, "attention_mask": mask}, layout)
    if documents is not None:
        documents = layout.take(documents, 0)
        del new["attention_mask"]  # its absence says that there are documents
    if settings.positions == "compact":
        placed = compact_positions(layout.valid, full, documents)
    else:
        placed = with_text_index(layout.take(full, 0), layout.valid, documents)
    if takes_positions(model):
        new["position_ids"] = placed
    if hasattr(model.base_model, "rope_deltas"):
        model.base_model.rope_deltas = rope_delta(placed, layout.valid)
    full_last, last = last_of(full, attended), last_of(placed, layout.valid)
    if settings.positions == "preserved":
        # A prompt may end with a token that was dropped.
        text = 1 if full.ndim == 3 and full.shape[0] == 4 else 0  # an axis that is counted anew
        last = torch.cat([last[:text], full_last[text:]])
    memory = Memory(
        ids=ids,
        layout=layout,
        positions=placed,
        last=last,
        full_last=full_last,
        key_bias=None if mass == "none" else layout.take(log_mass, 0),
        compact=settings.positions == "compact",
    )
    return Shrunk(new | {"mm_encoder_outputs": outputs}, items, memory, layout.columns)


def _choose(settings: Settings, call: Encoded) -> list[Choice]:
    """What the selector keeps of each image, modality by modality."""
    visual = call.visual
    weights: list[Tensor | None] | None = None
    if settings.weights is not None:
        order = call.prompt_order
        seen = [replace(visual[i], features=visual[i].features.detach()) for i in order]
        with torch.no_grad():
            given = weights_of(settings.weights, seen)
        weights = [given[order.index(i)] for i in range(len(visual))]
    return choose(
        settings.selector,
        [image.features for image in visual],
        [image.row for image in visual],
        settings.merge,
        weights,
    )


def take_columns(model: Any, inputs: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """Every argument with one number a token, cut to a layout; the others as they are.

    Raises:
        UnsupportedError: an argument of the prompt's shape of which we do not know what it means.
    """
    shape = torch.Size((layout.columns.shape[0], layout.width))
    known = {*PER_TOKEN, "input_ids", "position_ids", *_signature_of_generate(model)}
    for name, value in inputs.items():
        if name not in known and isinstance(value, Tensor) and value.shape == shape:
            raise UnsupportedError(
                f"{name} has the prompt's shape {tuple(shape)}, and otprune does not know how to "
                "shorten it: leave it out"
            )
    new = {key: value for key, value in inputs.items() if key != "position_ids"}
    for name, fill in {**PER_TOKEN, "input_ids": _padding_id(model)}.items():
        if isinstance(new.get(name), Tensor):
            new[name] = layout.take(new[name], fill)
    if isinstance(new.get("labels"), Tensor):
        # Nothing stands in front of the caller's first column, so its label is never predicted:
        # neither is it where new padding stands in front.
        first = layout.columns.to(new["labels"].device) == 0
        new["labels"] = new["labels"].masked_fill(first, -100)
    if new.get("logits_to_keep") is not None:
        new["logits_to_keep"] = last_columns(new["logits_to_keep"], layout)
    return new


def last_columns(asked: Any, layout: Layout) -> Any:
    """The caller's last columns, or columns by number, in the shortened prompt.

    Raises:
        UnsupportedError: some of them were dropped, or rows lost different numbers behind them.
    """
    if isinstance(asked, Tensor) and asked.ndim:
        columns = torch.where(asked < 0, asked + layout.width, asked)
        behind = layout.width - int(columns.min()) if columns.numel() else 0
        shifted = columns - layout.dropped
    elif int(asked) == 0:
        return asked  # all of them
    else:
        behind, shifted = int(asked), asked
    if not layout.keeps_last(behind):
        raise UnsupportedError(
            f"logits_to_keep asks for columns up to the {behind}th from the end, and dropped "
            "visual tokens are among them: ask for fewer, or use logits='full'"
        )
    return shifted


def _report(modality: str, some: Images, i: int, choice: Choice) -> Pruned:
    return Pruned(
        modality=modality,
        row=some.rows[i],
        before=len(some.tokens[i]),
        after=len(choice.made.indices),
        indices=choice.made.indices,
        features=some.tokens[i].detach(),
        seconds=choice.seconds,
        lazy_masses=choice.made.lazy_masses,
        unit=some.unit,
    )


def _padding_id(model: Any) -> int:
    token = getattr(model.generation_config, "pad_token_id", None)
    return 0 if token is None else int(token)


def _signature_of_generate(model: Any) -> set[str]:
    return set(inspect.signature(type(model).generate).parameters)
