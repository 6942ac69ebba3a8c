"""What differs between model families, as a table, and which models can be pruned.

Everything else is read from the model: signatures, the config's placeholder ids, the shape of its
encoder's output. A family that is not in the table gets the default entry, which is right for every
model whose encoder returns one entry an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import transformers
from torch import Tensor
from transformers import AutoModel, GenerationMixin, PreTrainedModel

from otprune.engines.transformers.grouping import Grouping
from otprune.engines.transformers.heads import base_of, generative_of, is_policy
from otprune.engines.transformers.parameters import parameters_of
from otprune.engines.transformers.versions import OLDEST, installed
from otprune.errors import OTPruneError, UnsupportedError

Unit = Literal["image", "video", "frame", "chunk"]


@dataclass(frozen=True)
class Family:
    """How one family lays out the tokens of its images and videos.

    features: field of the encoder's output that the model reads.
    grouping: what makes one image, so that "k tokens an image" means the same everywhere:
        "entry"    one entry of the encoder's output;
        "run"      one contiguous run of placeholders (an image's tiles follow each other);
        "alone"    the same, but a run of several tiles is refused: they may be adjacent images;
        "overview" one tile, or adjacent tiles of which the last is an overview of the others;
        "quarters" one tile, or four tiles and an overview with one token between neighbours;
        "stacked"  as many entries as the length of the second axis of the pixels;
        "opened"   each tile is a run, and a special token precedes an image's first tile; the first
                   run of a sequence is always a first tile;
        "closed"   each tile is a run, and a special token precedes an image's last tile (overview);
        "ended"    each tile is a run, with one token between neighbours that names the tile;
        "joined"   each tile is a run, with exactly one token between neighbours.
    video_grouping: the same for videos.
    video: what one such group of a video is, with a budget of its own: the whole "video", or one
        "frame" or "chunk" of frames if the call does not say where a video ends.
    video_token: the modality whose placeholder stands for the tokens of a video.
    marks: number of tokens in front of an image's first placeholder and behind its last that its
        processor writes with it, where the config does not name them: no words of a question.
    one_entry: whether the images of a sequence are passed as one entry, since the family's own
        generate() repeats single entries for beams, which would mix up those of a sequence.
    positions: why position_ids do not reach the model's attention, so "preserved" is refused.
    refused: why the family cannot be pruned although its forward() takes encoder outputs.
    """

    features: str = "pooler_output"
    grouping: Grouping = "entry"
    video_grouping: Grouping = "entry"
    video: Unit = "video"
    video_token: Literal["image", "video"] = "video"
    marks: tuple[int, int] = (0, 0)
    one_entry: bool = False
    positions: str | None = None
    refused: str | None = None


_DROPS = "generate() drops position_ids"
_IGNORES = "attention takes no notice of position_ids"

DEFAULT = Family()
FAMILIES: dict[str, Family] = {
    "aria": Family(grouping="alone"),
    "aya_vision": Family(grouping="closed", marks=(1, 1)),
    "blip-2": Family(refused="its generate() encodes the pixels by itself, once more"),
    "cohere2_vision": Family(grouping="joined"),
    "exaone4_5": Family(positions=_DROPS),
    "fuyu": Family(features="last_hidden_state", grouping="joined"),
    "glm46v": Family(video_token="image", one_entry=True),
    "glm4v": Family(video_token="image", one_entry=True),
    "glm4v_moe": Family(video_token="image", one_entry=True),
    "glm5_next": Family(video_token="image", one_entry=True, positions=_IGNORES),
    "glm_ocr": Family(video_token="image", one_entry=True),
    "glmga": Family(video_token="image", one_entry=True),
    "got_ocr2": Family(grouping="overview"),
    "granite4_vision": Family(refused="its images enter as deepstack levels alone"),
    "granite_docling": Family(grouping="opened"),
    "hyperclovax_vision_v2": Family(positions=_DROPS),
    "idefics2": Family(grouping="quarters", marks=(1, 1)),
    "idefics3": Family(grouping="closed", marks=(2, 1)),
    "inkling2": Family(positions=_IGNORES),
    "inkling2_loop": Family(positions=_IGNORES),
    "inkling_mm_model": Family(
        positions=_IGNORES, refused="its calls do not tell where the patches of one image end"
    ),
    "internvl": Family(grouping="run", marks=(1, 1)),
    "kimi_k25": Family(video="chunk"),
    "lfm2_vl": Family(grouping="ended"),
    "llama4": Family(features="last_hidden_state", grouping="closed"),
    "minicpm_ocr": Family(grouping="opened", video_grouping="opened", video="frame"),
    "minicpmv4_6": Family(grouping="opened", video_grouping="opened", video="frame"),
    "minicpmv4_7": Family(grouping="opened", video_grouping="opened", video="frame"),
    "minimax_m3_vl": Family(video="chunk"),
    "mistral3": Family(marks=(0, 1)),
    "nemotron_h_omni": Family(video="chunk", video_token="image", positions=_IGNORES),
    "ovis2": Family(grouping="joined"),
    "perception_lm": Family(grouping="stacked"),
    "pp_chart2table": Family(grouping="overview"),
    "qianfan_ocr": Family(grouping="run", marks=(1, 1)),
    "smolvlm": Family(grouping="closed", marks=(2, 1)),
    "video_llava": Family(video_grouping="stacked"),
}

# Why classes that would pass for others are refused, by name.
_REFUSED = {
    "PI0Model": "it takes embedded actions and no state: prune PI0ForConditionalGeneration",
}


def family(config: Any) -> Family:
    """The entry for a model's config."""
    return FAMILIES.get(getattr(config, "model_type", ""), DEFAULT)


def support(model: PreTrainedModel | type[PreTrainedModel]) -> tuple[bool, str]:
    """Whether a model, or a model class, can be pruned, with the reason.

    Returns:
        `(True, how)` or `(False, why)`; the text is one line that names the class.
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
    if name in _REFUSED:
        return False, f"{name}: {_REFUSED[name]}"
    if is_policy(cls):
        if isinstance(model, type):
            return True, f"{name} has a prefix of images and text"
        able, why = support(base_of(model))
        return able, f"{name} has a prefix of images and text" if able else f"{name}: {why}"
    base = base_of(model)
    if base is not model:  # a head
        able, why = support(base)
        return able, f"{name} hands its arguments on: {why}" if able else f"{name}: {why}"
    if not issubclass(cls, GenerationMixin) and "mm_encoder_outputs" in parameters_of(cls.forward):
        return _support_of_base(cls)
    if not {"image", "video"} & set(cls.input_modalities):
        return False, f"{name} sees neither images nor videos: there is nothing to prune"
    if "mm_encoder_outputs" not in parameters_of(cls.forward):
        return False, (
            f"{name} takes no mm_encoder_outputs, by which pruned images are handed over; most "
            "such classes have no images among the tokens of a prompt (cross-attention, an encoder "
            "of text and image, ...)"
        )
    if not encoders(model, cls):
        return False, f"{name} has no get_image_features or get_video_features to encode with"
    config = cls.config_class if isinstance(model, type) else model.config
    refused = family(config).refused
    if refused is not None:
        return False, f"{name}: {refused}"
    return True, f"{name} takes mm_encoder_outputs"


def _support_of_base(cls: type[PreTrainedModel]) -> tuple[bool, str]:
    """`support` of a class that takes encoder outputs and does not generate: as what generates."""
    name, whole = cls.__name__, generative_of(cls)
    if whole is None:
        return False, (
            f"{name}: no class of its config generates, so how its images are encoded and its "
            "tokens placed is not known"
        )
    if not issubclass(whole, GenerationMixin):
        other = "" if whole is cls else f": {whole.__name__}"
        return False, f"{name}{other} does not generate token by token"
    able, why = support(whole)
    return able, f"{name} takes mm_encoder_outputs" if able else f"{name}: {why}"


def check(model: Any) -> None:
    """Raise UnsupportedError, naming class and reason, if `support` says no."""
    able, why = support(model)
    if not able:
        raise UnsupportedError(why)


def encoders(model: Any, cls: Any) -> list[str]:
    """Names of the methods that encode images and videos, of a model or a model class."""
    if isinstance(model, type):
        base: Any = AutoModel._model_mapping.get(cls.config_class, cls)
        bases = base if isinstance(base, tuple) else (base,)
    else:
        bases = (model.base_model,)
    names = ("get_image_features", "get_video_features")
    return [name for name in names if any(hasattr(base, name) for base in bases)]


def placeholder(config: Any, modality: str) -> int:
    """The id that stands in the prompt for one visual token of a modality."""
    name = family(config).video_token if modality == "video" else modality
    token = getattr(config, f"{name}_token_id", None)
    if token is None:
        kind = getattr(config, "model_type", type(config).__name__)
        raise UnsupportedError(f"{kind} names no {name}_token_id: its {modality}s are not seen")
    return int(token)


def rows_of(lengths: list[int], at: Tensor, modality: str) -> list[int]:
    """The index of each image's sequence in the batch.

    Args:
        lengths: tokens of each image.
        at: `(B, S)` bool, True at placeholders.
        modality: for messages.

    Raises:
        OTPruneError: an image would extend over two sequences, so features and placeholders are not
            in the same order.
    """
    ends = at.sum(dim=1).cumsum(0).tolist()
    rows, row, total = [], 0, 0
    for length in lengths:
        while row < len(ends) and total >= ends[row]:
            row += 1
        total += length
        if total > ends[row]:
            raise OTPruneError(
                f"a {modality} of {length} tokens does not fit the placeholders of sequence "
                f"{row}: order the {modality}s as their placeholders, sequence by sequence"
            )
        rows.append(row)
    return rows
