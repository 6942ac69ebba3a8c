"""How long a prompt must be, from the sizes of its images alone."""

from __future__ import annotations

import math
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
    keep = (ask.otprune or {}).get("keep", ENGINE["keep"])
    kept = [otprune.count(keep, tokens(model, one)) for one in ask.media()]
    return placeholders - len(kept) + sum(kept)
