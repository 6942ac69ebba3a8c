"""A call's images, encoded and matched with their placeholders, before anything is pruned."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.families import Unit, check, placeholder
from otprune.engines.transformers.features import PIXELS, Images, encode, find_images
from otprune.engines.transformers.heads import base_of, generating, inputs_of_base
from otprune.engines.transformers.memory import cache_of, length_of
from otprune.engines.transformers.packing import cues_of_call
from otprune.engines.transformers.sources import SEEN, seen_in
from otprune.engines.transformers.tower import Staged
from otprune.engines.transformers.versions import Untested, check_tested
from otprune.errors import OTPruneError, UnsupportedError
from otprune.selectors.cues import Cue, Cues

# Arguments with one number a token, and their value at padding (input_ids: the padding token).
TYPE_IDS = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
PER_TOKEN = {"attention_mask": 0, **dict.fromkeys(TYPE_IDS, 0), "labels": -100}
# Arguments that describe packed sequences to flash attention and linear attention.
_PACKING = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The tokens of one image or video, as the language model gets them without pruning.

    Attributes:
        modality: "image" or "video".
        row: index of its sequence in the batch.
        features: `(m, d)` in the model's dtype, including special tokens such as anyres newlines.
        unit: what these tokens show: an "image", a "video", or one "frame" or "chunk" of a video in
            families whose calls do not say where a video ends.
        cues: what else is known of the tokens; None if nothing was asked for.
    """

    modality: str
    row: int
    features: Tensor
    unit: Unit = "image"
    cues: Cues | None = None


class PrunedOutputs(dict[str, Any]):
    """The `mm_encoder_outputs` of a pruned call. The type marks them as already pruned.

    number: identifies the generate() that they were made for; 0 for none.
    """

    number: int = 0


@dataclass(frozen=True)
class Encoded:
    """A call whose images are encoded.

    given: its arguments, without those that are None.
    ids, mask: `(B, S)`.
    rest: its arguments without pixels and what belongs to them.
    outputs: encoder outputs by modality.
    at: `(B, S)` bool by modality, True at placeholders.
    images: images by modality.
    calls: what each call of the vision encoder kept; none without a selection inside it.
    cues: what is known of the tokens of each image, in the order of `visual`.
    """

    given: dict[str, Any]
    ids: Tensor
    mask: Tensor
    rest: dict[str, Any]
    outputs: dict[str, Any]
    at: dict[str, Tensor]
    images: dict[str, Images]
    calls: list[Staged]
    cues: list[Cues]

    @property
    def visual(self) -> list[VisualTokens]:
        """The tokens of every image, modality by modality."""
        every = [
            (modality, row, tokens, some.unit)
            for modality, some in self.images.items()
            for row, tokens in zip(some.rows, some.tokens, strict=True)
        ]
        return [
            VisualTokens(*one, cues if cues.names else None)
            for one, cues in zip(every, self.cues, strict=True)
        ]

    @property
    def ends(self) -> list[tuple[int, int, int]]:
        """Of each image in the order of `visual` its row, its first and its last placeholder."""
        found = []
        for modality, some in self.images.items():
            columns = self.at[modality].nonzero()[:, 1].tolist()
            for row, start, x in zip(some.rows, some.starts, some.tokens, strict=True):
                found.append((row, columns[start], columns[start + len(x) - 1]))
        return found

    def seen_by_caller(self, order: list[int]) -> list[VisualTokens]:
        """Copies of the images for a caller's function, which may change them in place."""
        visual = self.visual
        return [
            replace(
                visual[i],
                features=visual[i].features.detach().clone(),
                cues=self.cues[i].each(torch.clone) if self.cues[i].names else None,
            )
            for i in order
        ]

    @property
    def prompt_order(self) -> list[int]:
        """Indices into `visual` in prompt order, sequence by sequence."""
        places = []
        for modality, some in self.images.items():
            columns = self.at[modality].nonzero()[:, 1].tolist()
            places += [(row, columns[i]) for row, i in zip(some.rows, some.starts, strict=True)]
        return sorted(range(len(places)), key=places.__getitem__)


def visual_tokens(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    untested_transformers: Untested = "refuse",
    cues: Collection[Cue] = (),
) -> list[VisualTokens]:
    """The visual tokens of each image and video of a call, as the language model would get them.

    These are the tokens that a selector chooses from, in the order of `Run.last`. Nothing is pruned
    and the language model does not run.

        for image in otprune.visual_tokens(model, inputs):
            print(image.modality, image.row, image.features.shape)

    With cues, what the vision encoder knows of the tokens can be looked at, and given to a method:

        for image in otprune.visual_tokens(model, inputs, cues=("saliency",)):
            kept = selector.select(image.features, cues=image.cues)

    Args:
        model: a supported model, see `otprune.engines.transformers.support`.
        inputs: what the processor returned, including `input_ids` `(B, S)`; not changed.
        untested_transformers: see `Settings`.
        cues: names of the cues to collect, out of saliency, keys, encoded and grid; float32 (grid
            int64), on the device of the tokens. Blocks of tokens that the model combines into one
            have the mean of their tokens; tokens that the model adds have saliency, keys and
            features 0 and grid -1.

    Returns:
        One entry for each image and video in prompt order, sequence by sequence; without gradient.
        Empty for text alone.

    Raises:
        UnsupportedError, OTPruneError: as `prune_inputs`, of what comes before the selection. Also
            for placeholders without pixels, and if a cue of this model or call is not known.
    """
    unknown = {cues} if isinstance(cues, str) else set(cues) - SEEN
    if unknown:
        raise OTPruneError(
            f"cues={cues!r}: expected names out of {', '.join(sorted(SEEN))}, such as ('saliency',)"
        )
    check_tested(untested_transformers)
    check(model)
    if not has_images(inputs) or not has_images(inputs_of_base(model, inputs)):
        check_no_placeholders(model, inputs)
        return []
    with torch.no_grad():
        call = encode_call(model, inputs, uses=cues, needs=cues)
    visual = call.visual
    return [visual[i] for i in call.prompt_order]


def has_images(inputs: Mapping[str, Any]) -> bool:
    """Whether a call brings images or videos, as pixels or encoded."""
    encoded = inputs.get("mm_encoder_outputs") or {}
    return any(inputs.get(key) is not None for key in PIXELS) or any(
        encoded.get(modality) is not None for modality in ("image", "video")
    )


def check_no_placeholders(model: Any, inputs: Mapping[str, Any]) -> None:
    """Raise OTPruneError if the prompt of a call without images and cache has placeholders."""
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or length_of(cache_of(inputs)):
        return
    model = base_of(model)
    for modality in {"image", "video"} & set(generating(model).input_modalities):
        try:
            token = placeholder(model.config, modality)
        except UnsupportedError:  # the model names none
            continue
        found = int((ids == token).sum())
        if found:
            raise OTPruneError(
                f"input_ids has {found} {modality} placeholders, and no {modality} comes with "
                "them: pass on everything that the processor returned"
            )


def encode_call(
    model: Any,
    inputs: Mapping[str, Any],
    stage: EncoderStage | None = None,
    uses: Collection[str] = (),
    needs: Collection[str] = (),
) -> Encoded:
    """Encode the images of a call and match them with their placeholders.

    Args:
        stage: selection inside the vision encoder, or None.
        uses: names of the cues to collect where they are known; others than `SEEN` are ignored.
        needs: those of them without which the call is refused.

    Raises:
        UnsupportedError: an argument or a prompt that cannot be pruned, or a cue that is needed and
            not known; says which and why.
        OTPruneError: the numbers of placeholders and features differ, or placeholders are masked.
    """
    inputs, model = inputs_of_base(model, inputs), base_of(model)
    given = {key: value for key, value in inputs.items() if value is not None}
    ids, mask = _prompt(given)
    wanted = seen_in(model, given, stage, uses, needs)
    made = encode(model, given, stage, wanted)
    outputs = made.by_modality
    at = {modality: ids == placeholder(model.config, modality) for modality in outputs}
    for modality, places in at.items():
        if bool((places & ~mask.bool()).any()):
            raise OTPruneError(f"attention_mask hides {modality} placeholders: it must not")
    images = {
        modality: find_images(model, outputs[modality], ids, places, modality, given)
        for modality, places in at.items()
    }
    tokens = [x for some in images.values() for x in some.tokens]
    cues = cues_of_call(model, made.seen, tokens, needs) if wanted else [Cues()] * len(tokens)
    return Encoded(given, ids, mask, made.rest, outputs, at, images, made.kept, cues)


def check_widths(inputs: Mapping[str, Any], tokens: int) -> None:
    """Raise UnsupportedError for a per-token argument that is not `tokens` wide.

    transformers would pad or cut some of them, always at the same end.
    """
    for name in (*PER_TOKEN, "position_ids"):
        value = inputs.get(name)
        if name != "attention_mask" and isinstance(value, Tensor) and value.shape[-1] != tokens:
            raise UnsupportedError(
                f"{name} has {value.shape[-1]} numbers a sequence for {tokens} tokens, so which "
                "token each belongs to is not known: give one for every token of input_ids"
            )


def _prompt(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    if given.get("inputs_embeds") is not None or "input_ids" not in given:
        raise UnsupportedError(
            "images came without input_ids, so their place in the prompt is not known: pass "
            "input_ids instead of inputs_embeds"
        )
    if length_of(cache_of(given)):
        raise UnsupportedError(
            "new images on a cache that is not empty: prune the whole conversation at once, with "
            "a new cache"
        )
    if isinstance(given.get("mm_encoder_outputs"), PrunedOutputs):
        raise UnsupportedError(
            "these inputs are pruned already: use prune or prune_inputs, not both, and call "
            "prune_inputs anew for every call"
        )
    for name in _PACKING:
        if given.get(name) is not None:
            raise UnsupportedError(
                f"{name} says where packed documents end in the full prompt: leave it out, and "
                "give position_ids that start anew in every document, with positions='compact'"
            )
    ids = given["input_ids"]
    mask = given.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(ids)
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise UnsupportedError(
            f"attention_mask is {shape}: expected the shape of input_ids, {tuple(ids.shape)}"
        )
    check_widths(given, ids.shape[1])
    return ids, mask
