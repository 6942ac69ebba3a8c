"""How long a prompt must be, from the sizes of its images alone."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import otprune
from otprune_bench.soak.media import Image, Video
from otprune_bench.soak.plan import ENGINE, MOST, QWEN
from otprune_bench.soak.requests import Ask

PIXELS = 28  # one token of Qwen2.5-VL is so many pixels high and wide
FRAMES = 2  # and so many frames long
LEAST = 4  # tokens of the smallest image
EMBEDDED_TOKENS = 144  # of any image


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens that Qwen2.5-VL's processor makes of an image or a frame.

    Sides go to the nearest multiple of `PIXELS`. Where that is more than `MOST` tokens, or fewer
    than `LEAST`, the image is first made smaller, or larger, with sides rounded to that end.
    """
    rows, columns = round(height / PIXELS), round(width / PIXELS)
    if rows * columns > MOST:
        scale = math.sqrt(MOST * PIXELS**2 / (height * width))
        rows, columns = (max(1, math.floor(x * scale / PIXELS)) for x in (height, width))
    elif rows * columns < LEAST:
        scale = math.sqrt(LEAST * PIXELS**2 / (height * width))
        rows, columns = (math.ceil(x * scale / PIXELS) for x in (height, width))
    return rows, columns


def tokens(model: str, one: Image | Video) -> int:
    """Visual tokens of an image or a video before pruning; all frames of a video are one set."""
    if model != QWEN:
        return EMBEDDED_TOKENS
    rows, columns = grid(one.height, one.width)
    return rows * columns * (one.frames // FRAMES if isinstance(one, Video) else 1)


def keep_of(asked: dict[str, Any], video: bool) -> float | int:
    """The `keep` of images or of videos, by whichever name a request gives it."""
    if video and "video_retention_ratio" in asked:
        return float(asked["video_retention_ratio"])
    rate = asked.get("video_pruning_rate" if video else "image_pruning_rate")
    if rate is not None:
        return float(1 - Decimal(str(rate)))
    keep: float | int = asked.get("keep", ENGINE["keep"])
    return keep


def kept_tokens(model: str, asked: dict[str, Any], one: Image | Video) -> int:
    """Tokens of an image or a video that stay.

    Behind a selection inside the encoder no more tokens of an image or a frame differ than it kept,
    and no more stay, unless all do.
    """
    m = tokens(model, one)
    k = otprune.count(keep_of(asked, isinstance(one, Video)), m)
    if "encoder_keep" in asked and k < m:
        frames = one.frames // FRAMES if isinstance(one, Video) else 1
        k = min(k, frames * otprune.count(asked["encoder_keep"], m // frames))
    return k


def messages(ask: Ask) -> list[dict[str, Any]]:
    """The chat as Hugging Face's templates take it."""

    def content(part: Any) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        return {"type": "video" if isinstance(part, Video) else "image"}

    return [{"role": who, "content": [content(part) for part in parts]} for who, parts in ask.turns]


def prompt_tokens(model: str, tokenizer: Any, ask: Ask) -> int:
    """Tokens of the pruned prompt: of its text, and what `otprune.count` leaves of each image."""
    text = tokenizer.apply_chat_template(messages(ask), tokenize=False, add_generation_prompt=True)
    placeholders = len(tokenizer(text, add_special_tokens=False).input_ids)
    kept = [kept_tokens(model, ask.otprune or {}, one) for one in ask.media()]
    return placeholders - len(kept) + sum(kept)
