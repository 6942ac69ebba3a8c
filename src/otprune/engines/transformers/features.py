"""The tokens of a call's images: out of the encoder's output, and what was kept back into it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.engines.common.selection import Choice
from otprune.engines.transformers.families import Unit, family, placeholder, rows_of
from otprune.engines.transformers.grouping import image_lengths
from otprune.errors import OTPruneError, UnsupportedError

# Names under which models take the pixels of images and videos.
PIXELS = (
    "pixel_values",
    "pixel_values_images",
    "pixel_values_videos",
    "pixel_values_local",
    "high_res_pixel_values",
    "image_patches",
)
# What no longer belongs to a call whose images are encoded.
ENCODED = (*PIXELS, "video_compression_mask")


@dataclass(frozen=True)
class Images:
    """The images of one modality, in prompt order.

    tokens: `(m, d)` of each.
    starts: where each begins among the tokens of all.
    rows: row of the batch that each stands in.
    unit: what each is: an image, a video, or a part of a video.
    """

    tokens: list[Tensor]
    starts: list[int]
    rows: list[int]
    unit: Unit


def encode(model: Any, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Encoder outputs by modality, made once, and the arguments that are not about pixels.

    Raises:
        UnsupportedError: pixels were given that no encoder of the model takes, or images and
            videos in one call though they share one placeholder.
    """
    # Copies, since transformers writes into what it is handed when it repeats rows for beams.
    before = {
        modality: type(output)(**output)
        for modality, output in (given.get("mm_encoder_outputs") or {}).items()
        if output is not None
    }
    given = _with_known_pixels(model, given)
    with _offloaded_weights(model.base_model):
        rest = model._prepare_multimodal_encoder_kwargs_for_generation(
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
    return made, rest


@contextmanager
def _offloaded_weights(module: Any) -> Iterator[None]:
    """Weights that accelerate keeps elsewhere come when forward() is called: here it is not.

    Those of the modules inside come by themselves, since they are called.
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
    """The arguments, pixels under the names that the model's encoders take.

    Raises:
        UnsupportedError: there are pixels that would not be encoded.
    """
    encoders = {
        modality: set(inspect.signature(encoder).parameters)
        for modality in ("image", "video")
        if modality in model.input_modalities
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
    # An encoder is asked only where its main argument is there.
    main = pixels - {"pixel_values_local", "high_res_pixel_values"}
    lost = pixels - set().union(*(names for names in encoders.values() if names & main))
    if lost:
        raise UnsupportedError(
            f"{type(model).__name__} has no encoder that takes {' or '.join(sorted(lost))}: what "
            "it shows would not be pruned; leave it out"
        )
    return given


def _compressed(output: Any, mask: Tensor) -> Any:
    """A video encoder's output without the tokens that the processor has left out, `(N,)` bool."""
    parts = output.pooler_output
    kept = mask.to(parts[0].device).split([len(part) for part in parts])
    cut = [part[keep] for part, keep in zip(parts, kept, strict=True)]
    return type(output)(**{**output, "pooler_output": type(parts)(cut)})


def find_images(
    model: Any, output: Any, ids: Tensor, at: Tensor, modality: str, given: dict[str, Any]
) -> Images:
    """The images in an encoder's output, by the placeholders `at` `(B, S)` of the prompt `ids`.

    Args:
        given: the arguments of the call, whose pixels may tell where an image ends.

    Raises:
        OTPruneError: there are not as many placeholders as tokens, or not in the same rows.
        UnsupportedError: the encoder gives none of the tokens that the language model would get,
            or it cannot be told which of them are one image.
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


def with_kept_features(model: Any, output: Any, images: Images, choices: list[Choice]) -> Any:
    """The encoder's output with kept tokens only.

    Deepstack levels keep their own rows of the kept tokens, with `merge` too: the masses were
    found among the tokens themselves, and a level is added at the place of one token.
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
    """The kept rows of every tensor, or list of tensors, in nested lists and tuples."""
    if isinstance(level, Tensor) or (
        isinstance(level, (list, tuple)) and all(isinstance(x, Tensor) for x in level)
    ):
        flat, _ = flat_rows(level)
        return _refill(level, [flat[rows] for rows in kept])
    if isinstance(level, (list, tuple)):
        return type(level)(_keep_rows(x, kept) for x in level)
    return level


def _refill(old: Any, rows: list[Tensor]) -> Any:
    """Rows, one `(k, d)` an image, in the container that the model expects.

    Images of different length in one tensor become entries of one token each, `(N, 1, d)`: models
    look at the number of elements alone, and transformers then finds the border between two rows of
    the batch when it repeats them for beams.
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
