"""The tokens of a call's images: read from the encoder's output, and the kept ones put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.engines.common.selection import Choice
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.families import Unit, family, placeholder, rows_of
from otprune.engines.transformers.grouping import image_lengths
from otprune.engines.transformers.heads import generating
from otprune.engines.transformers.packing import Seen, in_order
from otprune.engines.transformers.parameters import parameters_of
from otprune.engines.transformers.seen import seeing
from otprune.engines.transformers.tower import Staged, staged
from otprune.errors import OTPruneError, UnsupportedError
from otprune.measures.cells import Cells

# Argument names of pixels, of all models.
PIXELS = (
    "pixel_values",
    "pixel_values_images",
    "pixel_values_videos",
    "pixel_values_local",
    "high_res_pixel_values",
    "image_patches",
)
# Arguments that are removed from a call whose images are encoded.
ENCODED = (*PIXELS, "video_compression_mask")


@dataclass(frozen=True)
class Images:
    """The images of one modality, in prompt order.

    tokens: `(m, d)` for each image.
    starts: index of its first token among those of all images.
    rows: index of its sequence in the batch.
    unit: what each is: an image, a video, or a part of a video.
    """

    tokens: list[Tensor]
    starts: list[int]
    rows: list[int]
    unit: Unit


@dataclass(frozen=True)
class Outputs:
    """What encoding a call's images gave.

    by_modality: encoder outputs.
    rest: the arguments of the call without pixels and what belongs to them.
    kept: what each call of the vision encoder kept; none without a selection inside it.
    seen: the cues of each call of the vision encoder; none if none are collected.
    """

    by_modality: dict[str, Any]
    rest: dict[str, Any]
    kept: list[Staged]
    seen: list[Seen]


def encode(
    model: Any,
    given: dict[str, Any],
    stage: EncoderStage | None = None,
    wanted: frozenset[str] = frozenset(),
) -> Outputs:
    """Encode the images of a call.

    Args:
        stage: selection inside the vision encoder, or None.
        wanted: cues to collect, of those in `seen_in`.

    Raises:
        UnsupportedError: no encoder of the model takes the given pixels, or images and videos come
            in one call although they have the same placeholder.
    """
    # Copies, since transformers changes the outputs in place when it repeats them for beams.
    before = {
        modality: type(output)(**output)
        for modality, output in (given.get("mm_encoder_outputs") or {}).items()
        if output is not None
    }
    if stage is not None and before:
        raise UnsupportedError(
            f"mm_encoder_outputs holds encoded {' and '.join(before)}s, which the selection inside "
            "the encoder cannot reach: pass pixels, or prune without encoder="
        )
    given = _with_known_pixels(model, given)
    with ExitStack() as stack:
        calls = [] if stage is None else stack.enter_context(staged(model, stage))
        seen = stack.enter_context(seeing(model, wanted, given)) if wanted else []
        stack.enter_context(_offloaded_weights(model.base_model))
        rest = generating(model)._prepare_multimodal_encoder_kwargs_for_generation(
            given | {"mm_encoder_outputs": before}
        )
    made = {
        modality: output
        for modality, output in rest.pop("mm_encoder_outputs").items()
        if output is not None
    }
    if {"image", "video"} <= set(made) and len(
        {placeholder(model.config, modality) for modality in ("image", "video")}
    ) == 1:
        raise UnsupportedError(
            f"{type(model).__name__} has one placeholder for images and videos, so a call with "
            "both does not say which is which: pass them in calls of their own"
        )
    if "video" in made and getattr(model.config, "video_pruning_rate", None):
        raise UnsupportedError(
            f"{type(model).__name__} prunes its videos itself: set config.video_pruning_rate to 0"
        )
    mask = rest.pop("video_compression_mask", None)
    if mask is not None and "video" in made:
        made["video"] = _compressed(made["video"], mask)
    if stage is not None and not calls:
        raise UnsupportedError(
            f"{type(model).__name__} did not call its vision encoder as expected, so nothing was "
            "selected inside it: prune without encoder="
        )
    return Outputs(made, rest, calls, seen)


@contextmanager
def _offloaded_weights(module: Any) -> Iterator[None]:
    """Load parameters that accelerate has offloaded, for the direct parameters of one module.

    accelerate loads them when forward() is called, but encoding calls other methods of the module.
    Submodules are called, so they load their own.
    """
    hook = getattr(module, "_hf_hook", None)
    if hook is None:
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def _with_known_pixels(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with pixels renamed to what the model's encoders take.

    Raises:
        UnsupportedError: no encoder takes some of the pixels.
    """
    encoders = {
        modality: parameters_of(encoder)
        for modality in ("image", "video")
        if modality in generating(model).input_modalities
        and (encoder := getattr(model.base_model, f"get_{modality}_features", None)) is not None
    }
    taken = set().union(*encoders.values())
    pixels = {name for name in PIXELS if given.get(name) is not None}
    for old in ("image_patches", "pixel_values_images"):  # other names of pixel_values
        if old in pixels and "pixel_values" in pixels:
            raise UnsupportedError(f"{old} and pixel_values are one argument: pass one of them")
        if old in pixels and old not in taken and "pixel_values" in encoders.get("image", ()):
            given = {"pixel_values" if name == old else name: x for name, x in given.items()}
            pixels = pixels - {old} | {"pixel_values"}
    # An encoder runs only if its main pixel argument is given.
    main = pixels - {"pixel_values_local", "high_res_pixel_values"}
    lost = pixels - set().union(*(names for names in encoders.values() if names & main))
    if lost:
        raise UnsupportedError(
            f"{type(model).__name__} has no encoder that takes {' or '.join(sorted(lost))}: what "
            "it shows would not be pruned; leave it out"
        )
    return given


def _compressed(output: Any, mask: Tensor) -> Any:
    """A video encoder's output reduced to the tokens where `mask`, `(N,)` bool, is True.

    The processor has placeholders only for those.
    """
    parts = output.pooler_output
    kept = mask.to(parts[0].device).split([len(part) for part in parts])
    cut = [part[keep] for part, keep in zip(parts, kept, strict=True)]
    return type(output)(**{**output, "pooler_output": type(parts)(cut)})


def find_images(
    model: Any, output: Any, ids: Tensor, at: Tensor, modality: str, given: dict[str, Any]
) -> Images:
    """Split an encoder's output into images, with the help of the prompt.

    Args:
        ids: `(B, S)`, the prompt.
        at: `(B, S)` bool, True at its placeholders of this modality.
        given: the arguments of the call; the pixels may be needed to see where an image ends.

    Raises:
        OTPruneError: the numbers of placeholders and tokens differ, in all or within a sequence.
        UnsupportedError: the encoder's output lacks the features that the language model gets, or
            it is not known which of them are one image.
    """
    kind = family(model.config)
    features = getattr(output, kind.features, None)
    if features is None:
        raise UnsupportedError(
            f"{type(model).__name__}: its encoder gives no {kind.features} to select from"
        )
    flat, entries = flat_rows(features)
    if int(at.sum()) != len(flat):
        raise OTPruneError(
            f"the prompt has {int(at.sum())} {modality} placeholders and the encoder made "
            f"{len(flat)} tokens: pass input_ids and pixels of the same processor call, unabridged"
        )
    names = ("pixel_values_videos",) if modality == "video" else PIXELS[:2]
    pixels = next((given[name] for name in names if given.get(name) is not None), None)
    grouping = kind.video_grouping if modality == "video" else kind.grouping
    if grouping == "entry" and isinstance(features, Tensor) and features.ndim < 3:
        raise UnsupportedError(
            f"{type(model).__name__}: its encoder does not say where one {modality} ends"
        )
    try:
        lengths = image_lengths(
            grouping, entries, ids, at, pixels, given.get("pixel_attention_mask")
        )
    except UnsupportedError as error:
        raise UnsupportedError(f"{type(model).__name__}: {error}") from None
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    unit = kind.video if modality == "video" else "image"
    rows = rows_of(lengths, at, modality)
    return Images(list(torch.split(flat, lengths)), starts, rows, unit)


def cells_of_images(calls: list[Staged], images: Iterable[Images]) -> list[Cells | None]:
    """The plan of the encoder's selection for the tokens of each image, None where it is not known.

    It is known where each token of the encoder's output, in order, became one token of the prompt,
    or where the model's packing of tiles says which did. Tokens of one cell then have the same
    features, which is checked: a model may mix tokens or put them in another order.

    Args:
        images: by modality, in the order in which they were encoded.
    """
    every = [tokens for some in images for tokens in some.tokens]
    found: list[Cells] = []
    for call in calls:
        left = every[len(found) :]
        if call.origins is None:
            sizes = [len(one.cell) for one in call.cells]
            more = [
                Cells.joined([call.cells[i] for i in some])
                for some in in_order(sizes, [len(x) for x in left])
            ]
        else:
            whole = Cells.joined(call.cells)
            more = [whole.shown(origin.to(whole.cell.device)) for origin in call.origins]
        if [len(one.cell) for one in more] != [len(x) for x in left[: len(more)]] or not more:
            break  # which images this call encoded is not known
        # The projector may lie on another device than the encoder.
        found += [one.to(x.device) for one, x in zip(more, left, strict=False)]
    known = [
        cells if _are_copies(tokens.detach(), cells) else None
        for tokens, cells in zip(every, found, strict=False)
    ]
    return known + [None] * (len(every) - len(known))


def _are_copies(tokens: Tensor, cells: Cells) -> bool:
    """Whether the tokens of a cell are equal, up to the rounding of a matrix product's edges."""
    tokens = tokens.float()
    moved = torch.linalg.vector_norm(tokens[cells.representative] - tokens, dim=-1)
    return bool((moved <= 0.01 * torch.linalg.vector_norm(tokens, dim=-1)).all())


def with_kept_features(model: Any, output: Any, images: Images, choices: list[Choice]) -> Any:
    """The encoder's output with the features of kept tokens only.

    Deepstack levels keep their own rows of the kept tokens and are never merged: tokens were
    assigned to kept ones by the main features, and a level is added at the place of one token.
    """
    kept = [start + c.made.indices for start, c in zip(images.starts, choices, strict=True)]
    kind = family(model.config)
    name = kind.features
    features = [choice.made.features for choice in choices]
    if kind.one_entry:
        rows = sorted(set(images.rows))
        of_row = [
            [x for x, b in zip(features, images.rows, strict=True) if b == row] for row in rows
        ]
        features = [torch.cat(some) for some in of_row]
    changed = {name: _refill(output[name], features)}
    if output.get("deepstack_features") is not None:
        changed["deepstack_features"] = _keep_rows(output["deepstack_features"], kept)
    return type(output)(**{**output, **changed})


def _keep_rows(level: Any, kept: list[Tensor]) -> Any:
    """The rows `kept`, one index tensor an image, of every tensor in nested lists and tuples."""
    if isinstance(level, Tensor) or (
        isinstance(level, (list, tuple)) and all(isinstance(x, Tensor) for x in level)
    ):
        flat, _ = flat_rows(level)
        return _refill(level, [flat[rows] for rows in kept])
    if isinstance(level, (list, tuple)):
        return type(level)(_keep_rows(x, kept) for x in level)
    return level


def _refill(old: Any, rows: list[Tensor]) -> Any:
    """Rows, one `(k, d)` tensor an image, in a container of the same kind as `old`.

    If `old` is one tensor and the images differ in length, the result is `(N, 1, d)`, one entry a
    token. Models look at the number of elements only, and transformers can still split the entries
    by sequence when it repeats them for beams.
    """
    if not isinstance(old, Tensor):
        deep = len(old) > 0 and old[0].ndim == 3
        return type(old)([x.unsqueeze(1) if deep else x for x in rows])
    if old.ndim < 3:
        return torch.cat(rows)
    if len({len(x) for x in rows}) == 1:
        return torch.stack(rows)
    return torch.cat(rows).unsqueeze(1)


def flat_rows(features: Any) -> tuple[Tensor, list[int]]:
    """Encoder features as one `(N, d)` tensor and the number of rows of each entry."""
    if isinstance(features, Tensor):
        d = features.shape[-1]
        flat = features.reshape(-1, d)
        if features.ndim < 3:
            return flat, [len(flat)]
        return flat, [flat.shape[0] // features.shape[0]] * features.shape[0]
    parts = [x.reshape(-1, x.shape[-1]) for x in features]
    return torch.cat(parts), [len(x) for x in parts]
