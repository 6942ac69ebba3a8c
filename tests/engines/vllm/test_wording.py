"""Frames and questions in the words of real processors.

Processors of models that know videos need a torchvision that works beside a torch for the CPU, as
this environment has. Tokenizers are made here: every character is a token.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

CHAT = """\
{% for m in messages %}<|im_start|>{{ m['role'] }}
{% for c in m['content'] %}\
{{ c['text'] if c['type'] == 'text' else WRAPPED[c['type']] }}\
{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
VISION = {
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "video": "<|vision_start|><|video_pad|><|vision_end|>",
}
LLAVA = {"image": "<image>\n", "video": "<video>\n"}
INTERN = {"image": "<IMG_CONTEXT>\n", "video": "<video>\n"}


def chat(wrapped: dict[str, str]) -> str:
    return CHAT.replace("WRAPPED", str(wrapped))


def tokenizer(*special: str, **names: Any) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = ["<unk>", "<pad>", "<|im_start|>", "<|im_end|>", *special]
    words = [*marks, *map(chr, range(32, 127)), "\n"]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.add_special_tokens(marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        **names,
    )


def qwen(name: str) -> Any:
    import transformers as hf

    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    images, videos = hf.Qwen2VLImageProcessor(), hf.Qwen2VLVideoProcessor()
    if name == "Qwen3VL":
        images, videos = hf.Qwen2VLImageProcessor(patch_size=16), hf.Qwen3VLVideoProcessor()
    made = getattr(hf, f"{name}Processor")
    return made(images, tokenizer(*marks), videos, chat_template=chat(VISION))


def onevision() -> Any:
    import transformers as hf

    return hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(),
        tokenizer("<image>", "<video>"),
        hf.LlavaOnevisionVideoProcessor(),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        patch_size=14,
        chat_template=chat(LLAVA),
    )


def next_video() -> Any:
    import transformers as hf

    return hf.LlavaNextVideoProcessor(
        image_processor=hf.LlavaNextImageProcessor(),
        tokenizer=tokenizer("<image>", "<video>"),
        video_processor=hf.LlavaNextVideoVideoProcessor(),
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=chat(LLAVA),
    )


def internvl() -> Any:
    import transformers as hf

    marks = ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    named = tokenizer(*marks, extra_special_tokens=dict(zip(names, marks, strict=True)))
    return hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(), named, hf.InternVLVideoProcessor(), chat_template=chat(INTERN)
    )


START, END = "<|vision_start|>", "<|vision_end|>"
USER, ASKED = "<|im_start|>user\n", "What?<|im_end|>\n<|im_start|>assistant\n"
# What opens a session, the frame's text with one placeholder, and whether text closes the video.
CASES = {
    "qwen2_vl": (lambda: qwen("Qwen2VL"), USER + START, "<|video_pad|>", END),
    "qwen2_5_vl": (lambda: qwen("Qwen2_5_VL"), USER + START, "<|video_pad|>", END),
    "qwen3_vl": (
        lambda: qwen("Qwen3VL"),
        USER,
        f"<12.5 seconds>{START}<|video_pad|>{END}",
        "",
    ),
    "llava_onevision": (onevision, USER, "<video>\n", ""),
    "llava_next_video": (next_video, USER, "<video>\n", ""),
    "internvl": (internvl, USER, "<img><IMG_CONTEXT></img>\n", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_frames_and_questions_in_a_processors_words(name: str) -> None:
    from PIL import Image

    from otprune.engines.transformers.watching.kinds import kind_of
    from otprune.engines.transformers.watching.wording import ChatWording

    class Config:
        model_type = name

    make, opens, frame, closes = CASES[name]
    processor = make()
    wording = ChatWording(processor, kind_of(Config()))

    def text(ids: Any) -> str:
        tokens = processor.tokenizer.convert_ids_to_tokens(list(ids))
        pads = ("<|video_pad|>", "<video>", "<IMG_CONTEXT>")
        return "".join(
            token if token in pads else token * len(list(run)) for token, run in groupby(tokens)
        )

    assert text(wording.opening()) == opens
    assert text(wording.question("What?")) == closes + ASKED
    assert text(wording.reopening("What?")) == "<|im_end|>\n" + opens
    made = wording.frame([Image.new("RGB", (320, 240))], [12.5])
    assert text(made["input_ids"][0].tolist()) == frame
