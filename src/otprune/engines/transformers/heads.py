"""Models that do not generate: base models, heads that classify, score or embed, and policies.

A base model (`LlavaModel`) takes `mm_encoder_outputs` as the model that generates does. A head is a
class around one that hands the arguments which it does not know on to it. What transformers has for
the preparation of generate() alone, encoding images and placing tokens, is borrowed from the class
of the same config that generates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    GenerationMixin,
)

from otprune.engines.transformers.parameters import parameters_of
from otprune.errors import OTPruneError, UnsupportedError


@dataclass(frozen=True)
class Head:
    """A class of heads that hand further arguments on to their base model.

    base: name of the usual class of the base model; None: what AutoModel gives for the config.
    rows: whether `logits` has a row for every token of the prompt.
    embeds: whether its forward() encodes pixels by itself, padded to the longest image, and hands
        `inputs_embeds` on; a pruned call brings these.
    labels: what a label is of: the "sequence", its own "token", or the "next" token as in a
        language model, where no token predicts the first.
    """

    base: str | None = None
    rows: bool = False
    embeds: bool = False
    labels: Literal["sequence", "token", "next"] = "next"


_HEADS = {
    "ColPaliForRetrieval": Head("PaliGemmaModel"),
    "ColQwen2ForRetrieval": Head("Qwen2VLModel", embeds=True),
    "GenericForSequenceClassification": Head(labels="sequence"),
    "GenericForTokenClassification": Head(rows=True, labels="token"),
    "ShieldGemma2ForImageClassification": Head("Gemma3ForConditionalGeneration"),
}


def is_policy(cls: Any) -> bool:
    """Whether a class is a vision-language-action policy whose prefix can be pruned."""
    return any(
        one.__name__ == "PI0ForConditionalGeneration" and one.__module__.startswith("transformers.")
        for one in cls.__mro__
    )


def head_of(cls: Any) -> Head | None:
    """What is known of a class of heads; None for any other class.

    A class of the caller's own counts if it inherits one of transformers' generic heads and its
    forward() takes any keyword argument, which the generic forward() hands on.
    """
    for one in cls.__mro__:
        if one.__name__ in _HEADS and one.__module__.startswith("transformers."):
            return _HEADS[one.__name__] if "kwargs" in parameters_of(cls.forward) else None
    return None


def check_rows(model: Any) -> None:
    """Raise UnsupportedError for a head that gives no logits for single tokens of the prompt."""
    head = head_of(type(model))
    if head is not None and not head.rows:
        raise UnsupportedError(
            f"logits='full': {type(model).__name__} gives no logits for single tokens of the "
            "prompt: leave it out"
        )


def base_of(model: Any) -> Any:
    """The model, or model class, that takes the encoded images.

    Itself, a head's base model, or a policy's vision-language model.
    """
    cls: Any = model if isinstance(model, type) else type(model)
    if is_policy(cls) and not isinstance(model, type):
        return model.base_model.vlm
    if "mm_encoder_outputs" in parameters_of(cls.forward) or (head := head_of(cls)) is None:
        return model
    if not isinstance(model, type):
        return model.base_model
    import transformers

    if head.base is not None:
        return getattr(transformers, head.base)
    return _mapped(AutoModel, cls.config_class) or model


def inputs_of_base(model: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a call with images, as those of `base_of(model)`.

    Raises:
        UnsupportedError: the prompt is embedded already.
        OTPruneError: it is not known which images are there.
    """
    if is_policy(type(model)):
        return _inputs_of_prefix(inputs)
    head = head_of(type(model))
    return _unpadded(inputs) if head is not None and head.embeds else inputs


def _inputs_of_prefix(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a policy's call that are those of its vision-language model."""
    given = {key: value for key, value in inputs.items() if value is not None}
    if "inputs_embeds" in given or "input_ids" not in given:
        raise UnsupportedError(
            "images came without input_ids, so their place in the prompt is not known: pass "
            "input_ids instead of inputs_embeds"
        )
    pixels, present = given["pixel_values"], given.get("pixel_attention_mask")
    if present is None or present.shape != pixels.shape[:2]:
        shape = None if present is None else tuple(present.shape)
        raise OTPruneError(
            f"pixel_attention_mask is {shape} for pixel_values of {tuple(pixels.shape)}: expected "
            "(batch, cameras), True where there is an image"
        )
    names = ("input_ids", "attention_mask", "position_ids")
    found: dict[str, Any] = {name: given[name] for name in names if name in given}
    images = pixels.flatten(0, 1)[present.bool().flatten()]
    return found | {"pixel_values": images} if len(images) else found


def _unpadded(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A call of ColQwen2, with the pixels of one image behind those of the other.

    Its language model gets embeddings alone, and so it counts positions as in text.
    """
    given = {key: value for key, value in inputs.items() if value is not None}
    pixels, grid = given.get("pixel_values"), given.get("image_grid_thw")
    if pixels is None:
        return given
    if grid is None or pixels.ndim != 3 or len(pixels) != len(grid):
        shape = None if grid is None else tuple(grid.shape)
        raise OTPruneError(
            f"image_grid_thw is {shape} for pixel_values of {tuple(pixels.shape)}: expected "
            "(batch, 3) and (batch, patches, ...), as the processor returns them"
        )
    there = torch.arange(pixels.shape[1], device=grid.device) < grid[:, 1:].prod(-1, keepdim=True)
    mask = given.get("attention_mask")
    if "position_ids" not in given and "input_ids" in given:
        ids = given["input_ids"]
        mask = torch.ones_like(ids) if mask is None else mask
        given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return given | {"pixel_values": pixels[there.to(pixels.device)]}


def generative_of(cls: Any) -> Any:
    """The class that generates, of the config of a model class; None if there is none."""
    if issubclass(cls, GenerationMixin):
        return cls
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        found = _mapped(auto, cls.config_class)
        if found is not None:
            return found
    return None


def generating(model: Any) -> Any:
    """A model with the methods that prepare a generate(), and the model's own base model.

    It is the model itself if that generates. Its forward() must not be called otherwise: it has no
    language head.
    """
    if isinstance(model, GenerationMixin):
        return model
    cls = generative_of(type(model))
    view = cls.__new__(cls)
    nn.Module.__init__(view)
    # What both classes read from the config, such as the size of a merged patch.
    vars(view).update({k: x for k, x in vars(model.base_model).items() if not k.startswith("_")})
    setattr(view, cls.base_model_prefix, model.base_model)
    return view


def _mapped(auto: Any, config_class: Any) -> Any:
    for one in config_class.__mro__ if config_class is not None else ():
        if one in auto._model_mapping:
            found = auto._model_mapping[one]
            return found[0] if isinstance(found, tuple) else found
    return None
