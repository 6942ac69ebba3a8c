"""The registry of tiny models: one for every family the matrix tests."""

from __future__ import annotations

from . import gemma, llava, mistral, onevision, qwen, tiles
from .base import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        llava.LLAVA,
        llava.LLAVA_NEXT,
        onevision.LLAVA_ONEVISION,
        qwen.QWEN2_VL,
        qwen.QWEN2_5_VL,
        qwen.QWEN3_VL,
        tiles.INTERNVL,
        tiles.IDEFICS3,
        tiles.SMOLVLM,
        gemma.GEMMA3,
        gemma.PALIGEMMA,
        mistral.MISTRAL3,
    )
}
