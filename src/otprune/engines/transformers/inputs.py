"""Shortening the inputs of a call: encode, select, remove the placeholders of dropped tokens.

Functions of the arguments. The model encodes images and computes positions; its weights and methods
are not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel

from otprune.engines.common.layer_stage import LayerStage
from otprune.engines.common.selection import NOTHING, Choice
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.attention import takes_distance
from otprune.engines.transformers.encoded import (
    PER_TOKEN,
    Encoded,
    PrunedOutputs,
    check_no_placeholders,
    check_widths,
    encode_call,
    has_images,
)
from otprune.engines.transformers.families import Unit, check, placeholder
from otprune.engines.transformers.features import (
    ENCODED,
    Images,
    cells_of_images,
    flat_rows,
    with_kept_features,
)
from otprune.engines.transformers.heads import base_of, head_of, inputs_of_base, is_policy
from otprune.engines.transformers.layout import Layout
from otprune.engines.transformers.memory import Deep, Memory
from otprune.engines.transformers.parameters import parameters_of
from otprune.engines.transformers.positions import (
    Positions,
    Scheme,
    are_own,
    check_documents,
    compact_positions,
    documents_of,
    full_positions,
    last_of,
    rope_delta,
    scheme_of,
    takes_positions,
    with_text_index,
)
from otprune.engines.transformers.question import Text, questions
from otprune.engines.transformers.selection import choose, log_masses, weights_of
from otprune.engines.transformers.settings import Settings, Weigh
from otprune.engines.transformers.tower import Staged
from otprune.engines.transformers.versions import Untested
from otprune.errors import OTPruneError, UnsupportedError
from otprune.selectors.cues import Cues
from otprune.selectors.results import LazyTensor

if TYPE_CHECKING:
    from otprune.selectors import Selector


@dataclass(frozen=True)
class Pruned:
    """What was kept of one image or video of a call.

    modality: "image" or "video".
    row: index of its sequence in the batch.
    before, after: number of tokens, including special tokens such as anyres newlines.
    indices: `(after,)` int64, the kept tokens among its `before`, ascending.
    masses: `(after,)` float32, share of the full set that each kept token stands for; sums to 1.
        Computed when first read.
    features: `(before, d)`, its tokens before pruning, without gradient: what the selector got.
    seconds: time of the selection and merging. The time of a batched selection is divided evenly.
    unit: what these tokens show: an "image", a "video", or one "frame" or "chunk" of a video in
        families whose calls do not say where a video ends.
    cues: what else the selector got, such as the question: `selector.explain(item.features,
        cues=item.cues)` says how good the choice is.
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
    cues: Cues = NOTHING

    @property
    def masses(self) -> Tensor:
        return self.lazy_masses()


@dataclass(frozen=True)
class Shrunk:
    """A pruned call.

    inputs: its new arguments.
    items: what was kept of each image and video, in prompt order.
    memory: how the prompt was pruned; None if every token was kept.
    columns: `(B, n)`, see `Layout.columns`.
    encoder: what each call of the vision encoder kept; none without a selection inside it.
    positions: the scheme of its positions; None if every token was kept.
    """

    inputs: dict[str, Any]
    items: list[Pruned]
    memory: Memory | None
    columns: Tensor
    encoder: list[Staged]
    positions: Scheme | None = None


def prune_inputs(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    selector: Selector,
    positions: Positions = "auto",
    merge: bool = False,
    padding_side: str = "left",
    untested_transformers: Untested = "refuse",
    weights: Weigh | None = None,
    encoder: EncoderStage | None = None,
    text: Text | None = None,
) -> dict[str, Any]:
    """The inputs of `model(**inputs)` or `model.generate(**inputs)` with visual tokens pruned.

    For code that calls the model itself. `prune` does the same inside ordinary calls. It also
    offers `mass` and `distance`, which change attention in the model and cannot be expressed as
    inputs. Of m tokens of an image, `selector.count(m)` are kept; of a video as many over all its
    frames, or of each frame or chunk (`Pruned.unit`). If `keep` is a rule, it decides (`Auto` for
    each image, `Budget` for all of one prompt). Anyres newline rows are tokens like any other.

    Args:
        model: a supported model, see `otprune.engines.transformers.support`.
        inputs: what the processor returned, including `input_ids` `(B, S)`; not changed.
        selector: any selector of `otprune.selectors`.
        positions: see `Settings`. Without mass "auto" is "preserved" for M-RoPE models and
            "compact" for all others.
        merge: each kept token becomes the mean of the tokens that it stands for.
        padding_side: side on which shorter sequences are padded, "left" (for generate) or "right".
        untested_transformers, weights, encoder, text: see `Settings`.

    Returns:
        New arguments for one call: `mm_encoder_outputs` instead of pixels, shorter `input_ids`,
        `attention_mask`, `labels` and other per-token arguments, and explicit `position_ids`. If
        every token is kept, only the pixels are replaced. Decoding by hand continues at
        `position_ids[..., -1:] + 1`. For `generate(use_cache=False)` use compact positions: without
        a cache, transformers reads gaps as borders between packed sequences.

    Raises:
        UnsupportedError: the model or an argument cannot be pruned; says which and why.
        OTPruneError: the numbers of placeholders and features differ (placeholders without pixels
            among them), or an argument is wrong.
        WeightError: as for `prune`.
    """
    settings = Settings(
        selector,
        positions,
        merge,
        untested_transformers=untested_transformers,
        weights=weights,
        encoder=encoder,
        text=text,
    )
    check(model)
    if is_policy(type(model)):
        raise UnsupportedError(
            f"{type(model).__name__} embeds its prefix by itself, so a pruned one cannot be given "
            "as inputs: use otprune.prune, in a with block"
        )
    if padding_side not in ("left", "right"):
        raise OTPruneError(f"padding_side={padding_side!r}: expected 'left' or 'right'")
    if not has_images(inputs):
        check_no_placeholders(model, inputs)
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
    return handed_over(model, inputs, shrunk)


def handed_over(model: Any, given: Mapping[str, Any], shrunk: Shrunk) -> dict[str, Any]:
    """The arguments of a pruned call, with embeddings for heads that encode pixels by themselves.

    Args:
        given: the arguments of the caller.
    """
    head = head_of(type(model))
    if head is None or not head.embeds:
        return shrunk.inputs
    if shrunk.memory is None:
        return dict(given)
    own = parameters_of(type(model).forward) - {"pixel_values", "image_grid_thw"}
    kept = {name: value for name, value in shrunk.inputs.items() if name in own}
    embeds = embedded(base_of(model), shrunk.inputs)
    return kept | {"input_ids": None, "inputs_embeds": embeds}


def embedded(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """`(B, n, d)`, the embeddings of a pruned prompt with images: ids and encoder outputs."""
    ids = inputs["input_ids"]
    at = ids == placeholder(model.config, "image")
    embeds: Tensor = model.get_input_embeddings()(ids.masked_fill(at, 0))
    features, _ = flat_rows(inputs["mm_encoder_outputs"]["image"].pooler_output)
    features = features.to(embeds.device, embeds.dtype)
    return embeds.masked_scatter(at.unsqueeze(-1).to(embeds.device), features)


def shrink(model: Any, inputs: Mapping[str, Any], padding_side: str, settings: Settings) -> Shrunk:
    """Prune the inputs of a call with images or videos.

    What `settings.mass` and `settings.distance` add to attention is only stored in the memory. The
    caller must apply it.

    Args:
        padding_side: "left", "right", or "aligned", which keeps columns counted from the end, see
            `Layout.aligned`.
    """
    uses, needs = (getattr(settings.selector, name, ()) for name in ("uses", "needs"))
    head = head_of(type(model))
    labels = inputs.get("labels")
    if head is not None and head.labels != "next" and labels is not None:
        if head.labels == "token":
            check_widths({"labels": labels}, inputs["input_ids"].shape[1])
        others = {name: value for name, value in inputs.items() if name != "labels"}
        shrunk = shrink(model, others, padding_side, settings)
        if head.labels == "token" and shrunk.memory is not None:
            labels = shrunk.memory.layout.take(labels, -100)
        return replace(shrunk, inputs=shrunk.inputs | {"labels": labels})
    inputs, model = inputs_of_base(model, inputs), base_of(model)
    call = encode_call(model, inputs, settings.encoder, uses, needs)
    given, ids, mask, rest = call.given, call.ids, call.mask, call.rest
    mass = settings.mass if settings.has_mass else "none"
    cues = _cues(model, settings, call)
    chosen, known = iter(_choose(settings, call, cues)), iter(cues)

    keep = torch.ones_like(ids, dtype=torch.bool)
    distanced = settings.has_distance and (settings.distance is True or takes_distance(model))
    biased = settings.has_mass or distanced
    log_mass, distance = (
        torch.zeros(ids.shape, dtype=torch.float32, device=ids.device) for _ in range(2)
    )
    outputs, reports = PrunedOutputs(call.outputs), []
    for modality, some in call.images.items():
        at = call.at[modality]
        choices = [next(chosen) for _ in some.tokens]
        kept = torch.zeros(int(at.sum()), dtype=torch.bool, device=ids.device)
        added, factor = (log_mass.new_zeros(len(kept)) for _ in range(2))
        for x, start, choice in zip(some.tokens, some.starts, choices, strict=True):
            here = start + choice.made.indices.to(ids.device)
            kept[here] = True
            if mass != "none":
                added[here] = log_masses(choice, len(x), mass, settings.alpha).to(ids.device)
            if distanced and len(choice.made.indices) < len(x):
                factor[here] = settings.alpha
        keep[at], log_mass[at], distance[at] = kept, added, factor
        if not kept.all():
            outputs[modality] = with_kept_features(model, call.outputs[modality], some, choices)
        reports += [
            _report(modality, some, i, choice, next(known)) for i, choice in enumerate(choices)
        ]
    items = [reports[i] for i in call.prompt_order]

    visual = torch.stack([*call.at.values()]).any(dim=0)
    stage = settings.layers if _drops_deep(settings, visual & keep, mask) else None
    if bool(keep.all()) and stage is None:
        whole = {key: value for key, value in inputs.items() if key not in ENCODED}
        every = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return Shrunk(whole | {"mm_encoder_outputs": outputs}, items, None, every, call.calls)

    attended = mask.bool()
    if padding_side == "aligned":
        layout = Layout.aligned(keep, attended)
    else:
        layout = Layout.packed(keep & attended, padding_side)
    full = full_positions(model, given, mask)
    documents = documents_of(given, full)
    fixed = biased or are_own(given, full, mask)
    # Where every token goes on to a stage in the language model, positions are as they were.
    whole_prompt = bool(keep.all())
    asked: Positions = "auto" if whole_prompt else settings.positions
    scheme = scheme_of(asked, model, full, documents, fixed or whole_prompt)
    check_documents(scheme, documents, full, layout.columns < 0)
    new = take_columns(model, rest | {"input_ids": ids, "attention_mask": mask}, layout)
    if documents is not None:
        documents = layout.take(documents, 0)
        del new["attention_mask"]  # transformers detects packed documents only without a mask
    if scheme == "compact":
        placed = compact_positions(layout.valid, full, documents)
    else:
        placed = with_text_index(layout.take(full, 0), layout.valid, documents)
    if takes_positions(model):
        new["position_ids"] = placed
    if hasattr(model.base_model, "rope_deltas") and not (head is not None and head.embeds):
        model.base_model.rope_deltas = rope_delta(placed, layout.valid)
    full_last, last = last_of(full, attended), last_of(placed, layout.valid)
    if scheme == "preserved":
        # The next token follows the full prompt, whose last tokens may have been dropped.
        # The text index, the first of four axes, has no gaps: it follows the last kept token.
        text = 1 if full.ndim == 3 and full.shape[0] == 4 else 0
        last = torch.cat([last[:text], full_last[text:]])
    memory = Memory(
        ids=ids,
        layout=layout,
        positions=placed,
        last=last,
        full_last=full_last,
        key_bias=layout.take(log_mass, 0) if biased else None,
        distance=layout.take(distance, 0) if distanced else None,
        compact=scheme == "compact",
        deep=None if stage is None else _deep(stage, layout, visual, documents),
    )
    inputs = new | {"mm_encoder_outputs": outputs}
    return Shrunk(inputs, items, memory, layout.columns, call.calls, scheme)


def _drops_deep(settings: Settings, visual: Tensor, valid: Tensor) -> bool:
    """Whether a stage inside the language model drops any of these tokens."""
    if settings.layers is None:
        return False
    entered = _droppable(visual, valid).sum(dim=1).tolist()
    cuts = range(len(settings.layers.cuts))
    return any(settings.layers.numbers(cut, entered, entered) != entered for cut in cuts)


def _deep(stage: LayerStage, layout: Layout, visual: Tensor, documents: Tensor | None) -> Deep:
    """A stage inside the language model, with the visual tokens of the shortened prompt."""
    if documents is not None:
        raise UnsupportedError(
            "layers= with packed documents: which of their tokens asks about an image is not "
            "known: give each document a sequence of its own, or leave layers out"
        )
    visual = layout.take(visual, 0) & layout.valid
    return Deep(stage, _droppable(visual, layout.valid), layout.valid, [])


def _droppable(visual: Tensor, valid: Tensor) -> Tensor:
    """All visual tokens but one at the end of a prompt, from which the answer starts."""
    place = torch.arange(visual.shape[1], device=visual.device)
    return visual & (place != (place * valid).max(dim=1, keepdim=True).values)


def _cues(model: Any, settings: Settings, call: Encoded) -> list[Cues]:
    """What the selector is told of each image besides its tokens, in the order of `call.visual`."""
    cues = list(call.cues)
    if settings.weights is not None:
        order = call.prompt_order
        given = weights_of(settings.weights, call.seen_by_caller(order))
        for place, weights in zip(order, given, strict=True):
            cues[place] = replace(cues[place], weights=weights)
    if "question" in getattr(settings.selector, "uses", ()):
        texts = questions(settings.text, model, call)
        cues = [replace(one, question=text) for one, text in zip(cues, texts, strict=True)]
    return cues


def _choose(settings: Settings, call: Encoded, cues: list[Cues]) -> list[Choice]:
    """Run the selector on each image, modality by modality."""
    visual = call.visual
    return choose(
        settings.selector,
        [image.features for image in visual],
        [image.row for image in visual],
        settings.merge,
        cues,
        cells_of_images(call.calls, call.images.values()) if call.calls else None,
    )


def take_columns(model: Any, inputs: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """The arguments with every per-token argument reduced to the columns of a layout.

    Raises:
        UnsupportedError: an unknown argument has the shape of the prompt.
    """
    shape = torch.Size((layout.columns.shape[0], layout.width))
    generate = getattr(type(model), "generate", GenerationMixin.generate)
    known = {*PER_TOKEN, "input_ids", "position_ids", *parameters_of(generate)}
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
        # The loss never includes the label of the first column, since no column precedes it. New
        # padding in front must not change that.
        first = layout.columns.to(new["labels"].device) == 0
        new["labels"] = new["labels"].masked_fill(first, -100)
    if new.get("logits_to_keep") is not None:
        new["logits_to_keep"] = last_columns(new["logits_to_keep"], layout)
    return new


def last_columns(asked: Any, layout: Layout) -> Any:
    """`logits_to_keep` for the shortened prompt: the same columns, by number or by index.

    Raises:
        UnsupportedError: some of the columns were dropped, or are not aligned among sequences.
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


def _report(modality: str, some: Images, i: int, choice: Choice, cues: Cues) -> Pruned:
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
        cues=cues,
    )


def _padding_id(model: Any) -> int:
    # What does not generate may pool the last token that is no padding, by this id.
    config = getattr(model, "generation_config", None) or model.config.get_text_config()
    token = getattr(config, "pad_token_id", None)
    return 0 if token is None else int(token)
