"""A Qwen2.5-VL without weights for vLLM to fill: configuration, processor, a tokenizer of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
QWEN = (
    *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = IMAGE.replace("image", "video")
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}{% if 'text' in c %}{{ c['text'] }}"
    "{% elif c['type'] == 'video' %}VIDEO{% else %}IMAGE{% endif %}{% endfor %}{% endif %}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TOWER = {"depth": 2, "hidden_size": 320, "intermediate_size": 640, "num_heads": 4}
PIXELS = 28  # one token of the language model is so many pixels high and wide


@dataclass(frozen=True)
class Size:
    """How large the language model is: layers, width, heads (half as many for keys), MLP."""

    layers: int
    width: int
    heads: int
    mlp: int


def byte_tokenizer(special: Sequence[str], image: str, video: str = "") -> Any:
    """A fast tokenizer of bytes and special tokens; `image` and `video` stand in chats for one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*SPECIAL, *special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: i for i, token in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(special),
    )
    made.chat_template = TEMPLATE.replace("IMAGE", image).replace("VIDEO", video)
    return made


def qwen(size: Size, tower: dict[str, int], most: int) -> tuple[Any, Any]:
    """Configuration and processor of a Qwen2.5-VL.

    Args:
        size: of the language model.
        tower: of the vision encoder, as `TOWER`; its last layer attends to whole frames.
        most: visual tokens of the largest image.
    """
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = byte_tokenizer(QWEN, IMAGE, VIDEO)
    token = tokenizer.convert_tokens_to_ids
    half = size.width // size.heads // 2
    rope = {"rope_type": "default", "type": "default", "rope_theta": 1e6}
    config = Qwen2_5_VLConfig(
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        text_config={
            "vocab_size": 320,
            "hidden_size": size.width,
            "intermediate_size": size.mlp,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.heads // 2,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                **rope,
                "mrope_section": [half - 2 * (half // 3), *[half // 3] * 2],
            },
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 3,
        },
        vision_config={
            **tower,
            "out_hidden_size": size.width,
            "window_size": 112,
            "fullatt_block_indexes": [tower["depth"] - 1],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    bounds: dict[str, Any] = {
        "size": {"shortest_edge": 4 * PIXELS**2, "longest_edge": most * PIXELS**2}
    }
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**bounds),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**bounds),
        chat_template=tokenizer.chat_template,
    )
    return config, processor


def save(folder: Path, size: Size, tower: dict[str, int]) -> None:
    """Write what `vllm serve --load-format dummy` needs."""
    for part in qwen(size, tower, most=2048):
        part.save_pretrained(folder)
