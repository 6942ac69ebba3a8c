"""The table of docs/plan.md: what requests cost models of published shapes, and what pruning gains.

    python -m tools.plan_table          # prints it
    python -m tools.plan_table --write  # and puts it into docs/plan.md

No weights and no hub: configs and processor settings are written down here. Most processors need
torchvision. `PUBLISHED` says where each shape is from; as a check against mistakes in it, the model
built from it has to have the published number of parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

import otprune
from otprune.asking.units import in_bytes
from otprune.planning.sizes import Sizes
from otprune_bench.timing.shapes import LLAVA, ONEVISION, QWEN_1296
from tests.planning.processors import chat, tokenizer

PAGE = Path(__file__).parents[1] / "docs" / "plan.md"
BEGIN, END = "<!-- written by tools.plan_table -->", "<!-- end -->"
SIZES = ((640, 480), (1920, 1080), (3840, 2160))
TEXT, ANSWER, CACHE = 100, 100, 8 * 2**30
KEEPS = (0.25, 0.1)


@dataclass(frozen=True)
class Published:
    """A model as published.

    Attributes:
        config: as `AutoConfig.for_model` takes it.
        parameters: in millions.
        source: of these numbers.
        processor: makes its processor; the words are not the model's, which changes no number.
    """

    config: dict[str, Any]
    parameters: float
    source: str
    processor: Callable[[Any], Any]


def _llava(config: Any) -> Any:
    return transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=336),
        tokenizer({"<image>": config.image_token_id}),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat("<image>\n"),
    )


def _onevision(config: Any) -> Any:
    return transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(),
        tokenizer({"<image>": config.image_token_id, "<video>": config.video_token_id}),
        transformers.LlavaOnevisionVideoProcessor(),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        patch_size=14,
        chat_template=chat("<image>\n", "<video>\n"),
    )


def _qwen(name: str, patch: int, least: int, most: int) -> Callable[[Any], Any]:
    def make(config: Any) -> Any:
        marks = {
            "<|image_pad|>": config.image_token_id,
            "<|video_pad|>": config.video_token_id,
            "<|vision_start|>": config.vision_start_token_id,
            "<|vision_end|>": config.vision_end_token_id,
        }
        size = {"shortest_edge": least, "longest_edge": most}
        videos = "Qwen3VL" if name == "Qwen3VL" else "Qwen2VL"
        return getattr(transformers, f"{name}Processor")(
            transformers.Qwen2VLImageProcessor(patch_size=patch, size=size),
            tokenizer(marks),
            getattr(transformers, f"{videos}VideoProcessor")(patch_size=patch),
            chat_template=chat("<|vision_start|><|image_pad|><|vision_end|>"),
        )

    return make


def _smolvlm(config: Any) -> Any:
    marks = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    names = ("fake_image_token", "image_token", "end_of_utterance_token", "global_image_token")
    ids = dict(zip(marks, (49189, config.image_token_id, 49279, 49152), strict=True))
    ids |= {f"<row_{1 + i // 6}_col_{1 + i % 6}>": 49153 + i for i in range(36)}
    return transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(
            size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}
        ),
        tokenizer(ids, **dict(zip(names, marks, strict=True))),
        transformers.SmolVLMVideoProcessor(),
        image_seq_len=64,
        chat_template=chat("<image>"),
    )


PUBLISHED = {
    "LLaVA-1.5-7B": Published(
        LLAVA.config, 7063, "llava-hf/llava-1.5-7b-hf, as in the efficiency bench", _llava
    ),
    "LLaVA-OneVision-0.5B": Published(
        {
            **{k: v for k, v in ONEVISION.config.items() if k != "image_grid_pinpoints"},
            "video_token_id": 151647,
        },
        894,
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf, as in the efficiency bench; pinpoints and "
        "processor are the defaults of transformers",
        _onevision,
    ),
    "SmolVLM-256M": Published(
        {
            "model_type": "smolvlm",
            "image_token_id": 49190,
            "scale_factor": 4,
            "tie_word_embeddings": False,
            "vision_config": {
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "image_size": 512,
                "patch_size": 16,
            },
            "text_config": {
                "model_type": "llama",
                "vocab_size": 49280,
                "hidden_size": 576,
                "intermediate_size": 1536,
                "num_hidden_layers": 30,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "head_dim": 64,
            },
        },
        256.5,
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        _smolvlm,
    ),
    "Qwen2.5-VL-7B": Published(
        QWEN_1296.config,
        8292,
        "Qwen/Qwen2.5-VL-7B-Instruct; 3136 to 12845056 pixels",
        _qwen("Qwen2_5_VL", 14, 3136, 12845056),
    ),
    "Qwen3-VL-4B": Published(
        {
            "model_type": "qwen3_vl",
            "image_token_id": 151655,
            "video_token_id": 151656,
            "vision_start_token_id": 151652,
            "vision_end_token_id": 151653,
            "vision_config": {
                "depth": 24,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_heads": 16,
                "out_hidden_size": 2560,
                "patch_size": 16,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "num_position_embeddings": 2304,
                "deepstack_visual_indexes": [5, 11, 17],
            },
            "text_config": {
                "vocab_size": 151936,
                "hidden_size": 2560,
                "intermediate_size": 9728,
                "num_hidden_layers": 36,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "tie_word_embeddings": True,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 5e6,
                    "mrope_section": [24, 20, 20],
                },
            },
            "tie_word_embeddings": True,
        },
        4438,
        "Qwen/Qwen3-VL-4B-Instruct; 65536 to 16777216 pixels",
        _qwen("Qwen3VL", 16, 65536, 16777216),
    ),
}


def rows(name: str) -> list[str]:
    """The rows of one model, one for each size of an image."""
    made = PUBLISHED[name]
    config = AutoConfig.for_model(**made.config)
    number = Sizes(config, torch.bfloat16).parameters / 1e6
    if abs(number / made.parameters - 1) > 0.005:
        raise SystemExit(f"{name}: {number:.1f} million parameters, published {made.parameters}")
    processor, found = made.processor(config), []
    for size in SIZES:
        plans = [
            otprune.plan(
                config,
                size,
                processor=processor,
                text=TEXT,
                answer=ANSWER,
                keep=keep,
                method="simplex",
                dtype="bfloat16",
            )
            for keep in KEEPS
        ]
        one = plans[0]
        cells = [
            f"{name}" if size == SIZES[0] else "",
            f"{size[0]}x{size[1]}",
            f"{one.before.visual_tokens}",
            in_bytes(one.before.cache_bytes),
            " / ".join(
                str(n)
                for n in (
                    one.requests_in(CACHE, "before"),
                    *(plan.requests_in(CACHE) for plan in plans),
                )
            ),
            f"{one.shares['encoder']:.0%}",
            " / ".join(f"{plan.speed_up:.2f}" for plan in plans),
            f"{one.speed_up_at_most:.2f}",
        ]
        found.append("| " + " | ".join(cells) + " |")
    return found


def table() -> str:
    """The table, and where its shapes are from."""
    some = " / ".join(map(str, KEEPS))
    lines = [
        f"| model | image | visual tokens | cache of a request | requests in {in_bytes(CACHE)}, "
        f"keep 1.0 / {some} | encoder's share | first token, times fewer FLOP, keep {some} | "
        "at most |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(row for name in PUBLISHED for row in rows(name)),
        "",
        *(f"- {name}: {made.source}." for name, made in PUBLISHED.items()),
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it into the page if asked to."""
    made = table()
    print(made)
    if "--write" in sys.argv[1:]:
        page = PAGE.read_text()
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
