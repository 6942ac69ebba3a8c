"""Real processors of the tested families, made offline for the tiny models of tests/families.

Their image and video processors, and their code, are transformers' own. Tokenizers are made here:
every character is a token. Sizes are those of the tiny models, so that images of any size are
cheap. Processors with a video slot need torchvision: `TORCHVISION` names their families.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.families.base import IMAGE, VIDEO, VISION_END, VISION_START

CHAT = """\
{% for m in messages %}<|im_start|>{{ m['role'] }}
{% for c in m['content'] %}\
{{ c['text'] if c['type'] == 'text' else WRAPPED[c['type']] }}\
{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
FAKE, OVERVIEW, ROW, END_ROW, END_IMAGE = 304, 305, 200, 306, 307


def chat(image: str, video: str = "") -> str:
    return CHAT.replace("WRAPPED", str({"image": image, "video": video}))


def tokenizer(marks: dict[str, int], bos: bool = False, **names: str) -> Any:
    """Marks have the ids of the tiny models; characters come after 100."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = {"<pad>": 0, "<s>": 1, "<unk>": 2, "<|im_start|>": 3, "<|im_end|>": 4, **marks}
    letters = [*map(chr, range(32, 127)), "\n"]
    made = Tokenizer(
        models.WordLevel(marks | {x: 100 + i for i, x in enumerate(letters)}, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.add_special_tokens(list(marks))
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        **({"bos_token": "<s>"} if bos else {}),
        **({"extra_special_tokens": names} if names else {}),
    )


SIDE = {"height": 56, "width": 56}


PINPOINTS = [[56, 112], [112, 56], [112, 112]]


def llava() -> Any:
    import transformers as hf

    return clip_processor(hf.LlavaProcessor, hf.CLIPImageProcessor)


def llava_next() -> Any:
    import transformers as hf

    images = partial(hf.LlavaNextImageProcessor, image_grid_pinpoints=PINPOINTS)
    return clip_processor(hf.LlavaNextProcessor, images)


def clip_processor(processor: Callable[..., Any], images: Callable[..., Any]) -> Any:
    """A processor whose image processor is CLIP's or takes the same sizes."""
    return processor(
        images(size={"shortest_edge": 56}, crop_size=56),
        tokenizer({"<image>": IMAGE}),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat("<image>\n"),
    )


def llava_onevision() -> Any:
    import transformers as hf

    return hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=SIDE, image_grid_pinpoints=PINPOINTS),
        tokenizer({"<image>": IMAGE, "<video>": VIDEO}),
        hf.LlavaOnevisionVideoProcessor(size=SIDE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        patch_size=14,
        chat_template=chat("<image>\n", "<video>\n"),
    )


def qwen(name: str, patch: int = 14) -> Any:
    import transformers as hf

    limits = {"shortest_edge": (4 * patch) ** 2, "longest_edge": (16 * patch) ** 2}
    videos = hf.Qwen3VLVideoProcessor if name == "Qwen3VL" else hf.Qwen2VLVideoProcessor
    marks = {
        "<|image_pad|>": IMAGE,
        "<|video_pad|>": VIDEO,
        "<|vision_start|>": VISION_START,
        "<|vision_end|>": VISION_END,
    }
    wrapped = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video"))
    return getattr(hf, f"{name}Processor")(
        hf.Qwen2VLImageProcessor(patch_size=patch, size=limits),
        tokenizer(marks),
        videos(patch_size=patch, size=limits),
        chat_template=chat(*wrapped),
    )


def internvl() -> Any:
    import transformers as hf

    marks = {"<img>": VISION_START, "</img>": VISION_END, "<IMG_CONTEXT>": IMAGE, "<video>": VIDEO}
    names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    return hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(size=SIDE),
        tokenizer(marks, **dict(zip(names, marks, strict=True))),
        hf.InternVLVideoProcessor(size=SIDE),
        image_seq_length=16,
        chat_template=chat("<IMG_CONTEXT>\n", "<video>\n"),
    )


def idefics(smol: bool) -> Any:
    import transformers as hf

    marks = {"<fake_token_around_image>": FAKE, "<image>": IMAGE, "<global-img>": OVERVIEW}
    marks["<end_of_utterance>"] = 308
    marks |= {f"<row_{1 + i // 4}_col_{1 + i % 4}>": ROW + i for i in range(16)}
    names = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "end_of_utterance_token": "<end_of_utterance>",
        "global_image_token": "<global-img>",
    }
    sizes = {"size": {"longest_edge": 224}, "max_image_size": {"longest_edge": 56}}
    common = {"image_seq_len": 16, "chat_template": chat("<image>", "<video>")}
    words = tokenizer(marks, **names)
    if smol:
        videos = hf.SmolVLMVideoProcessor(**sizes)
        return hf.SmolVLMProcessor(hf.SmolVLMImageProcessor(**sizes), words, videos, **common)
    return hf.Idefics3Processor(hf.Idefics3ImageProcessor(**sizes), words, **common)


def gemma3() -> Any:
    import transformers as hf

    marks = {
        "<start_of_image>": VISION_START,
        "<end_of_image>": VISION_END,
        "<image_soft_token>": IMAGE,
    }
    names = ("boi_token", "eoi_token", "image_token")
    return hf.Gemma3Processor(
        hf.Gemma3ImageProcessor(size=SIDE, image_seq_length=16),
        tokenizer(marks, **dict(zip(names, marks, strict=True))),
        image_seq_length=16,
        chat_template=chat("<start_of_image>"),
    )


def paligemma() -> Any:
    import transformers as hf

    images = hf.SiglipImageProcessor(size=SIDE)
    images.image_seq_length = 16
    return hf.PaliGemmaProcessor(images, tokenizer({"<image>": IMAGE}, bos=True))


def mistral3() -> Any:
    import transformers as hf

    marks = {"[IMG]": IMAGE, "[IMG_BREAK]": END_ROW, "[IMG_END]": END_IMAGE}
    return hf.PixtralProcessor(
        hf.PixtralImageProcessor(patch_size=28, size={"longest_edge": 168}),
        tokenizer(marks),
        patch_size=14,
        spatial_merge_size=2,
        chat_template=chat("[IMG]"),
    )


PROCESSORS: dict[str, Callable[[], Any]] = {
    "llava": llava,
    "llava_next": llava_next,
    "idefics3": lambda: idefics(smol=False),
    "gemma3": gemma3,
    "paligemma": paligemma,
}
TORCHVISION: dict[str, Callable[[], Any]] = {
    "llava_onevision": llava_onevision,
    "qwen2_vl": lambda: qwen("Qwen2VL"),
    "qwen2_5_vl": lambda: qwen("Qwen2_5_VL"),
    "qwen3_vl": lambda: qwen("Qwen3VL", 16),
    "internvl": internvl,
    "smolvlm": lambda: idefics(smol=True),
    "mistral3": mistral3,
}
