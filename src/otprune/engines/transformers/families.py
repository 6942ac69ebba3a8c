"""What differs between model families, as data; and which models can be pruned at all.

Everything else is read off the model itself: signatures, the config's placeholder ids, the shape of
its encoder's output. A family that is not in the table gets the default row, which is right for
every model whose encoder returns one entry an image.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import transformers
from torch import Tensor
from transformers import AutoModel, GenerationMixin, PreTrainedModel

from otprune.engines.transformers.versions import OLDEST, installed
from otprune.errors import OTPruneError, UnsupportedError

Grouping = Literal["entry", "run", "opened", "closed", "ended", "joined"]


@dataclass(frozen=True)
class Family:
    """How one family lays out the tokens of its pictures.

    features: field of the encoder's output that the model reads.
    grouping: what makes one picture, so that "k tokens an image" means the same everywhere:
        "entry"  one entry of the encoder's output;
        "run"    one unbroken run of placeholders (tiles follow each other);
        "opened" tiles are runs of their own, and the token in front of a picture's first tile says
                 so; a row's first run is always such a tile;
        "closed" the same of the token in front of a picture's last tile, the overview;
        "ended"  the same of the token behind a picture's last tile;
        "joined" tiles are runs of their own with exactly one token between them.
    refused: why the family cannot be pruned although its interface looks as if it could.
    """

    features: str = "pooler_output"
    grouping: Grouping = "entry"
    refused: str | None = None


DEFAULT = Family()
FAMILIES: dict[str, Family] = {
    "aria": Family(grouping="run"),
    "aya_vision": Family(grouping="closed"),
    "blip-2": Family(refused="its generate() encodes the pixels by itself, once more"),
    "cohere2_vision": Family(grouping="joined"),
    "fuyu": Family(features="last_hidden_state"),
    "got_ocr2": Family(grouping="run"),
    "granite4_vision": Family(refused="its pictures enter as deepstack levels alone"),
    "granite_docling": Family(grouping="opened"),
    "idefics2": Family(grouping="joined"),
    "idefics3": Family(grouping="closed"),
    "internvl": Family(grouping="run"),
    "lfm2_vl": Family(grouping="ended"),
    "llama4": Family(features="last_hidden_state", grouping="closed"),
    "minicpm_ocr": Family(grouping="opened"),
    "minicpmv4_6": Family(grouping="opened"),
    "minicpmv4_7": Family(grouping="opened"),
    "ovis2": Family(grouping="joined"),
    "perception_lm": Family(grouping="run"),
    "qianfan_ocr": Family(grouping="run"),
    "smolvlm": Family(grouping="closed"),
}


def family(config: Any) -> Family:
    """The row of a model's config."""
    return FAMILIES.get(getattr(config, "model_type", ""), DEFAULT)


def support(model: PreTrainedModel | type[PreTrainedModel]) -> tuple[bool, str]:
    """Whether a model, or a model class without any weights, can be pruned; and why (not).

    Returns:
        `(True, how)` or `(False, why)`, `why` one line that names the class.
    """
    cls = model if isinstance(model, type) else type(model)
    name = cls.__name__
    if installed() < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return False, (
            f"transformers {transformers.__version__} is too old: otprune hands pruned features "
            f"over through mm_encoder_outputs, which needs transformers >= {wanted}"
        )
    if not issubclass(cls, PreTrainedModel):
        return False, (
            f"{name} is not a transformers model: pass the PreTrainedModel itself, "
            "not a wrapper around it (PEFT: model.get_base_model(), compiled: model._orig_mod)"
        )
    if not issubclass(cls, GenerationMixin):
        return False, f"{name} has no language head that generates: pass the full model"
    if not {"image", "video"} & set(cls.input_modalities):
        return False, f"{name} sees neither images nor videos: there is nothing to prune"
    if "mm_encoder_outputs" not in inspect.signature(cls.forward).parameters:
        return False, (
            f"{name} takes no mm_encoder_outputs: its pictures do not enter as tokens of the "
            "prompt that could be dropped (cross-attention, an encoder of text and image, ...)"
        )
    if not _encoders(model, cls):
        return False, f"{name} has no get_image_features or get_video_features to encode with"
    config = cls.config_class if isinstance(model, type) else model.config
    refused = family(config).refused
    if refused is not None:
        return False, f"{name}: {refused}"
    return True, f"{name} takes mm_encoder_outputs"


def check(model: Any) -> None:
    """Raise UnsupportedError, naming class and reason, if `support` says no."""
    able, why = support(model)
    if not able:
        raise UnsupportedError(why)


def _encoders(model: Any, cls: Any) -> list[str]:
    if isinstance(model, type):
        base: Any = AutoModel._model_mapping.get(cls.config_class, cls)
        bases = base if isinstance(base, tuple) else (base,)
    else:
        bases = (model.base_model,)
    names = ("get_image_features", "get_video_features")
    return [name for name in names if any(hasattr(base, name) for base in bases)]


def placeholder(config: Any, modality: str) -> int:
    """The id that stands in the prompt for one visual token of a modality."""
    token = getattr(config, f"{modality}_token_id", None)
    if token is None:
        kind = getattr(config, "model_type", type(config).__name__)
        raise UnsupportedError(f"{kind} names no {modality}_token_id: its {modality}s are not seen")
    return int(token)


def picture_lengths(grouping: Grouping, entries: list[int], ids: Tensor, at: Tensor) -> list[int]:
    """Tokens of each picture, in prompt order.

    Args:
        grouping: see `Family`.
        entries: tokens of each entry of the encoder's output, in prompt order.
        ids: `(B, S)` prompt.
        at: `(B, S)` bool, its placeholders, `sum(entries)` of them.
    """
    if grouping == "entry":
        return [n for n in entries if n]
    lengths: list[int] = []
    for row, mask in zip(ids.tolist(), at.tolist(), strict=True):
        runs = []  # (first column, length)
        column = 0
        for inside, group in groupby(mask):
            length = len(list(group))
            if inside:
                runs.append((column, length))
            column += length
        lengths += _GROUPINGS[grouping](runs, row)
    return lengths


def _by_run(runs: list[tuple[int, int]], row: list[int]) -> list[int]:
    return [length for _, length in runs]


def _by_start(runs: list[tuple[int, int]], row: list[int]) -> list[int]:
    before = [row[start - 1] if start else None for start, _ in runs]
    lengths: list[int] = []
    for (_, length), token in zip(runs, before, strict=True):
        if token == before[0]:
            lengths.append(length)
        else:
            lengths[-1] += length
    return lengths


def _by_overview(runs: list[tuple[int, int]], row: list[int]) -> list[int]:
    return _up_to(runs, [row[start - 1] if start else None for start, _ in runs])


def _by_end(runs: list[tuple[int, int]], row: list[int]) -> list[int]:
    after = [start + length for start, length in runs]
    return _up_to(runs, [row[column] if column < len(row) else None for column in after])


def _up_to(runs: list[tuple[int, int]], marks: list[int | None]) -> list[int]:
    """Pictures that end with a run of the same mark as the row's last."""
    lengths, total = [], 0
    for (_, length), mark in zip(runs, marks, strict=True):
        total += length
        if mark == marks[-1]:
            lengths.append(total)
            total = 0
    return lengths


def _by_gap(runs: list[tuple[int, int]], row: list[int]) -> list[int]:
    lengths: list[int] = []
    end = None
    for start, length in runs:
        if end is not None and start == end + 1:
            lengths[-1] += length
        else:
            lengths.append(length)
        end = start + length
    return lengths


_GROUPINGS = {
    "run": _by_run,
    "opened": _by_start,
    "closed": _by_overview,
    "ended": _by_end,
    "joined": _by_gap,
}


def rows_of(lengths: list[int], at: Tensor, modality: str) -> list[int]:
    """The batch row that each picture stands in.

    Raises:
        OTPruneError: a picture would lie in two rows, so the features cannot be what the
            placeholders stand for.
    """
    ends = at.sum(dim=1).cumsum(0).tolist()
    rows, row, total = [], 0, 0
    for length in lengths:
        while row < len(ends) and total >= ends[row]:
            row += 1
        total += length
        if total > ends[row]:
            raise OTPruneError(
                f"a {modality} of {length} tokens does not fit the placeholders of batch row "
                f"{row}: order the {modality}s as their placeholders, row by row"
            )
        rows.append(row)
    return rows
