"""The question of a prompt, as vectors in the space of its visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from otprune.engines.common.question import end_ids, special_ids, text_behind
from otprune.engines.transformers.callbacks import asked
from otprune.engines.transformers.families import family
from otprune.errors import CueError

if TYPE_CHECKING:
    from otprune.engines.transformers.encoded import Encoded, VisualTokens

# Token ids of one text for every image; or a function of the call's images.
Text = Sequence[int] | Tensor | Callable[[list["VisualTokens"]], Iterable[Any]]


def check_text(text: Any) -> Any:
    """`Settings.text` as it is kept: token ids as a tuple, so that settings compare and hash.

    Raises:
        CueError: it is not what `Settings.text` says.
    """
    if text is None or callable(text):
        return text
    if isinstance(text, str):
        raise CueError(
            f"text={text[:40]!r} is a string, which only the tokenizer can turn into tokens: "
            "pass text=tokenizer(text, add_special_tokens=False).input_ids"
        )
    return tuple(_checked_ids(text, "text").tolist())


def questions(given: Any, model: Any, call: Encoded) -> list[Tensor]:
    """For each image of a call the embedded text tokens of its question, `(n, d)` float32.

    Args:
        given: `Settings.text`.

    Returns:
        In the order of `call.visual`; n = 0 where no text follows an image.

    Raises:
        CueError: what the caller gave does not fit; says why.
    """
    order = call.prompt_order
    if callable(given):
        made = asked(given, call.seen_by_caller(order), "text")
    else:
        made = [given] * len(order)
    found: list[Tensor | None] = [None] * len(order)
    for number, (place, entry) in enumerate(zip(order, made, strict=True)):
        where = f"text(images)[{number}]" if callable(given) else "text"
        tokens = call.visual[place].features
        if entry is None:
            entry = _text_behind(model, call, place)
        if getattr(entry, "ndim", 1) == 2:
            found[place] = _checked_vectors(entry, tokens, where)
        else:
            found[place] = _embedded(model, _checked_ids(entry, where), where).to(tokens.device)
    return [one for one in found if one is not None]


def _text_behind(model: Any, call: Encoded, place: int) -> Tensor:
    """Ids of the text of the last turn that stands behind an image, `(n,)`, see `text_behind`.

    What has a label is an answer, no question, unless all of the text has one.
    """
    row, _, column = call.ends[place]
    ids, mask = _without_marks(model, call, row), call.mask[row].bool()
    known = mask[column + 1 :] & _asked(call, row)[column + 1 :]
    ahead: list[int] = ids[: column + 1][mask[: column + 1]].tolist()
    behind: list[int] = ids[column + 1 :][known].tolist()
    configs = _configs(model)
    found = text_behind(ahead, behind, end_ids(configs), special_ids(configs))
    return torch.tensor(found, dtype=torch.int64)


def _without_marks(model: Any, call: Encoded, row: int) -> Tensor:
    """Ids of one prompt `(S,)`, with placeholders for all that a processor writes with an image."""
    before, after = family(model.config).marks
    ids = call.ids[row].clone()
    for where, first, last in call.ends:
        if where == row:
            ids[max(first - before, 0) : last + 1 + after] = ids[last].clone()
    return ids


def _asked(call: Encoded, row: int) -> Tensor:
    """`(S,)` bool: False at tokens of one prompt that have a label, unless all its text has."""
    ids, labels = call.ids[row], call.given.get("labels")
    if not isinstance(labels, Tensor) or labels.shape != call.ids.shape:
        return torch.ones_like(ids, dtype=torch.bool)
    free = (labels[row] == -100).to(ids.device)
    end = max(column for r, _, column in call.ends if r == row) + 1
    text = call.mask[row, end:].bool()
    return free if bool((free[end:] & text).any()) else torch.ones_like(free)


def _configs(model: Any) -> list[Any]:
    known = (
        getattr(model, "generation_config", None),
        model.config,
        model.config.get_text_config(),
    )
    return [config for config in known if config is not None]


def _embedded(model: Any, ids: Tensor, where: str) -> Tensor:
    table = model.get_input_embeddings()
    rows = int(table.weight.shape[0]) if hasattr(table, "weight") else None
    if rows is not None and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
        raise CueError(
            f"{where} has token ids from {int(ids.min())} to {int(ids.max())}: the model's "
            f"vocabulary has those from 0 to {rows - 1}"
        )
    device = next(table.parameters()).device
    # accelerate leaves offloaded weights on "meta", and moves what the table is called with.
    made: Tensor = table(ids if device.type == "meta" else ids.to(device)).detach().float()
    return made


def _checked_ids(given: Any, where: str) -> Tensor:
    """Token ids as `(n,)` int64."""
    try:
        ids = torch.as_tensor(given if not isinstance(given, np.ndarray) else given.copy())
    except (TypeError, ValueError, RuntimeError) as cause:
        raise CueError(f"{where} is no array of token ids: {cause}") from cause
    if ids.ndim == 1 and not ids.numel():
        return ids.long()
    if ids.ndim != 1 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise CueError(
            f"{where} has shape {tuple(ids.shape)} and dtype {ids.dtype}: expected token ids, whole"
            " numbers of shape (n,)"
        )
    return ids.long()


def _checked_vectors(given: Any, tokens: Tensor, where: str) -> Tensor:
    vectors = torch.as_tensor(given)
    if not vectors.is_floating_point() or vectors.shape[1] != tokens.shape[1]:
        raise CueError(
            f"{where} has shape {tuple(vectors.shape)} and dtype {vectors.dtype}: expected "
            f"floating vectors in the space of the visual tokens, (n, {tokens.shape[1]})"
        )
    return vectors.detach().float().to(tokens.device)
