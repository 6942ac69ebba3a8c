"""The registry of tiny models: one for every family the matrix tests."""

from __future__ import annotations

from . import llava, qwen
from .base import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        llava.LLAVA,
        llava.LLAVA_NEXT,
        qwen.QWEN2_VL,
        qwen.QWEN2_5_VL,
        qwen.QWEN3_VL,
    )
}
