"""What a model's own processor makes of images and frames of some sizes: blank ones are enough."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from otprune.engines.transformers.families import placeholder
from otprune.errors import MissingDependencyError, OTPruneError, UnsupportedError, first_line
from otprune.installed import broken_torchvision

Size = tuple[int, int]  # width, height

QUESTION = "What is shown here?"
LARGEST = 2 * 89_478_485  # pixels of an image that are read: Pillow's limit, as in `otprune ask`
MOST = 2**30  # pixels of all images and frames


@dataclass(frozen=True)
class Prompt:
    """A prompt with images or a video.

    Attributes:
        inputs: what the processor returned, one sequence.
        around: tokens that the processor writes for the images besides the visual ones: delimiters,
            line breaks, names of tiles, time stamps.
    """

    inputs: dict[str, Any]
    around: int


def check_sizes(sizes: Sequence[Size], frames: int | None) -> None:
    """Raise OTPruneError for sizes that no image has, or that would fill the memory."""
    if not sizes:
        raise OTPruneError("no image: give the size of at least one, such as (1920, 1080)")
    for size in sizes:
        fits = isinstance(size, (tuple, list)) and len(size) == 2
        if not fits or not all(isinstance(x, int) and not isinstance(x, bool) for x in size):
            raise OTPruneError(f"image={size!r}: expected (width, height) in pixels")
        if min(size) < 1:
            raise OTPruneError(f"an image of {size[0]}x{size[1]} has no pixels")
        if size[0] * size[1] > LARGEST:
            raise OTPruneError(
                f"an image of {size[0]}x{size[1]} has {size[0] * size[1]:,} pixels, more than the "
                f"{LARGEST:,} that are read: plan for the size to which you shrink it"
            )
    if frames is not None:
        if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
            raise OTPruneError(f"frames={frames!r}: expected a number of frames, 1 or more")
        if len(sizes) > 1:
            raise OTPruneError(
                f"frames={frames} and {len(sizes)} images: one video is planned for at a time, "
                "give the size of its frames alone"
            )
    total = sum(width * height for width, height in sizes) * (frames or 1)
    if total > MOST:
        raise OTPruneError(
            f"{total:,} pixels in all, more than the {MOST:,} that a plan goes through: give the "
            "size to which frames are shrunk before they come to the processor"
        )


def prompt(
    name: str, config: Any, processor: Any, sizes: Sequence[Size], frames: int | None
) -> Prompt:
    """Run the processor on blank images, or on a video of so many blank frames.

    Raises:
        OTPruneError: the processor refuses them; with its reason.
        UnsupportedError: frames, and the processor knows no video.
        MissingDependencyError: a package that the processor needs is missing.
    """
    if frames is not None and getattr(processor, "video_processor", None) is None:
        raise UnsupportedError(
            f"{name} knows no video ({type(processor).__name__} has no video processor): plan for "
            "its frames as images"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = _of_frames(processor, sizes[0], frames) if frames else _of(processor, sizes)
            alone = _words(processor)
    except Exception as cause:  # processors of many families, and of models' own code
        _raise(name, sizes, frames, cause)
    ids = inputs["input_ids"]
    visual = sum(
        int((ids == token).sum())
        for token in {_token(config, modality) for modality in ("image", "video")} - {None}
    )
    return Prompt(inputs, max(ids.shape[1] - visual - alone, 0))


def _token(config: Any, modality: str) -> int | None:
    try:
        return placeholder(config, modality)
    except UnsupportedError:
        return None


def _of(processor: Any, sizes: Sequence[Size]) -> dict[str, Any]:
    # White: a tile of zeros is padding to some models.
    images = [Image.new("RGB", size, "white") for size in sizes]
    if getattr(processor, "chat_template", None):
        parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        return _rendered(processor, parts)
    mark = getattr(processor, "image_token", None) or "<image>"
    text = f"{mark}\n" * len(images) + QUESTION
    return dict(processor(images=[images], text=[text], return_tensors="pt"))


def _of_frames(processor: Any, size: Size, frames: int) -> dict[str, Any]:
    video = [Image.new("RGB", size, "white")] * frames
    if getattr(processor, "chat_template", None):
        content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    else:
        text = f"{processor.video_token}\n{QUESTION}"
    metadata = {
        "total_num_frames": frames,
        "fps": 1.0,
        "duration": float(frames),
        "frames_indices": list(range(frames)),
    }
    made = processor(
        text=[text],
        videos=[[video]],
        video_metadata=[metadata],
        do_sample_frames=False,
        add_special_tokens=False,
        return_tensors="pt",
    )
    return dict(made)


def _rendered(processor: Any, parts: list[dict[str, Any]]) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": QUESTION}]
    made = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return dict(made)


def _words(processor: Any) -> int:
    """Tokens of the same prompt without images."""
    if getattr(processor, "chat_template", None):
        return int(_rendered(processor, [])["input_ids"].shape[1])
    return len(processor.tokenizer(f"\n{QUESTION}")["input_ids"])


def _raise(name: str, sizes: Sequence[Size], frames: int | None, cause: Exception) -> None:
    what = ", ".join(f"{width}x{height}" for width, height in dict.fromkeys(sizes))
    what = f"{frames} frame{'s' * (frames > 1)} of {what}" if frames else what
    said = f"the processor of {name} refuses {what}: {first_line(cause)}"
    if isinstance(cause, ImportError):
        raise MissingDependencyError(broken_torchvision(cause) or said) from cause
    raise OTPruneError(said) from cause
