"""The families that are pruned in vLLM, as data. Every other model is served unchanged.

To add one: a row here, and a tiny checkpoint in tests/engines/vllm/checkpoints.py. The tests of all
families then run on it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One of vLLM's own model classes, which the pruning class derives from.

    module: its module, below `vllm.model_executor.models`.
    model: its name there.
    mrope: positions have three axes (time, height, width), so that kept tokens can keep theirs.
        Elsewhere vLLM itself counts positions, and they are always compact.
    stacked: a token's row holds deepstack levels after the `visual_dim` features to select by.
    packs: tiles become an image in a method of the model, which adds rows and may resize.
    """

    module: str
    model: str
    mrope: bool = False
    stacked: bool = False
    packs: bool = False


# Keys are architectures as config.json names them.
FAMILIES: dict[str, Family] = {
    "LlavaForConditionalGeneration": Family("llava", "LlavaForConditionalGeneration"),
    "LlavaNextForConditionalGeneration": Family(
        "llava_next", "LlavaNextForConditionalGeneration", packs=True
    ),
    "LlavaOnevisionForConditionalGeneration": Family(
        "llava_onevision", "LlavaOnevisionForConditionalGeneration", packs=True
    ),
    "InternVLForConditionalGeneration": Family("interns1", "InternS1ForConditionalGeneration"),
    "Qwen2VLForConditionalGeneration": Family(
        "qwen2_vl", "Qwen2VLForConditionalGeneration", mrope=True
    ),
    "Qwen2_5_VLForConditionalGeneration": Family(
        "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", mrope=True
    ),
    "Qwen3VLForConditionalGeneration": Family(
        "qwen3_vl", "Qwen3VLForConditionalGeneration", mrope=True, stacked=True
    ),
}
