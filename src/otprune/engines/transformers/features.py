"""The tokens of a call's pictures: out of the encoder's output, and what was kept back into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.engines.transformers.families import family, picture_lengths, rows_of
from otprune.engines.transformers.selection import Choice
from otprune.errors import OTPruneError, UnsupportedError


@dataclass(frozen=True)
class Pictures:
    """The pictures of one modality, in prompt order.

    tokens: `(m, d)` of each.
    starts: where each begins among the tokens of all.
    rows: row of the batch that each stands in.
    """

    tokens: list[Tensor]
    starts: list[int]
    rows: list[int]


def encode(model: Any, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Encoder outputs by modality, made once, and the arguments that are not about pixels."""
    # Copies, since transformers writes into what it is handed when it repeats rows for beams.
    before = {
        modality: type(output)(**output)
        for modality, output in (given.get("mm_encoder_outputs") or {}).items()
        if output is not None
    }
    with _weights_there(model.base_model):
        rest = model._prepare_multimodal_encoder_kwargs_for_generation(
            given | {"mm_encoder_outputs": before}
        )
    made = rest.pop("mm_encoder_outputs")
    return {modality: output for modality, output in made.items() if output is not None}, rest


@contextmanager
def _weights_there(module: Any) -> Iterator[None]:
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


def find_pictures(model: Any, output: Any, ids: Tensor, at: Tensor, modality: str) -> Pictures:
    """The pictures in an encoder's output, by the placeholders `at` `(B, S)` of the prompt `ids`.

    Raises:
        OTPruneError: there are not as many placeholders as tokens, or not in the same rows.
        UnsupportedError: the encoder gives none of the tokens that the language model would get.
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
    lengths = picture_lengths(kind.grouping, entries, ids, at)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return Pictures(list(torch.split(flat, lengths)), starts, rows_of(lengths, at, modality))


def hand_over(model: Any, output: Any, pictures: Pictures, choices: list[Choice]) -> Any:
    """The encoder's output with kept tokens only.

    Deepstack levels keep their own rows of the kept tokens, with `merge` too: the masses were
    found among the tokens themselves, and a level is added at the place of one token.
    """
    kept = [start + c.made.indices for start, c in zip(pictures.starts, choices, strict=True)]
    name = family(model.config).features
    changed = {name: _refill(output[name], [choice.made.features for choice in choices])}
    if output.get("deepstack_features") is not None:
        changed["deepstack_features"] = _cut(output["deepstack_features"], kept)
    return type(output)(**{**output, **changed})


def _cut(level: Any, kept: list[Tensor]) -> Any:
    """The kept rows of every tensor, or list of tensors, in nested lists and tuples."""
    if isinstance(level, Tensor) or (
        isinstance(level, (list, tuple)) and all(isinstance(x, Tensor) for x in level)
    ):
        flat, _ = flat_rows(level)
        return _refill(level, [flat[rows] for rows in kept])
    if isinstance(level, (list, tuple)):
        return type(level)(_cut(x, kept) for x in level)
    return level


def _refill(old: Any, rows: list[Tensor]) -> Any:
    """Rows, one `(k, d)` a picture, in the container that the model expects.

    Pictures of different length in one tensor become entries of one token each, `(N, 1, d)`: models
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
