"""The embedded model's processor: a word-level tokenizer and a stock CLIP image processor."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from otprune_training.architecture import BOS, IMAGE_MEAN, IMAGE_STD, WORD_ID
from otprune_training.scenes import PATCH, SIZE

# Images first, then the words; a question that lacks its mark gets one, as in training. It begins
# with <bos>, as the templates of models on the hub do, since vLLM adds nothing to a chat.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['content'] is string %}{% set words = message['content'] %}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% set words = message['content'] | selectattr('type', 'equalto', 'text')"
    " | map(attribute='text') | join(' ') %}"
    "{% endif %}"
    "{% set words = words | trim %}"
    "{% if message['role'] == 'assistant' %}{{ words }}{{ eos_token }}"
    "{% else %}{{ words }}{% if words and words[-1] not in '?.' %} ?{% endif %}{% endif %}"
    "{% endfor %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: lower case, British spelling folded, marks split off, the rest <unk>."""
    tokenizer = Tokenizer(WordLevel(dict(WORD_ID), unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace("colour", "color")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[?.,!]"), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        clean_up_tokenization_spaces=True,
    )


def build_processor(size: int = SIZE) -> LlavaProcessor:
    """The whole photograph, of any shape, becomes one square image: nothing is cropped away.

    Args:
        size: pixels along a side of that image.
    """
    image_processor = CLIPImageProcessorPil(
        do_center_crop=False,
        size={"height": size, "width": size},
        crop_size={"height": size, "width": size},
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
