"""Models of real sizes with random weights: their cost does not depend on their values."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.initialization import no_init_weights

_TILE = 1_000_003  # a prime, so that no two rows of a matrix are filled alike


@dataclass(frozen=True)
class Shape:
    """A model's sizes, and a prompt for it: one image and some text.

    Attributes:
        name: of the model whose sizes these are.
        config: as `AutoConfig.for_model` takes it.
        layers: of the language model, how many are run; the others are equal to them.
        pixels: shape of what the encoder sees.
        visual: tokens of the image.
        text: tokens of the prompt besides them.
        arguments: what else the encoder wants.
        around: ids of the tokens in front of the image and behind it; the tokens of these are
            beside `text`.
        token_types: whether the call says which tokens are the image's, for M-RoPE.
    """

    name: str
    config: dict[str, Any]
    layers: int
    pixels: tuple[int, ...]
    visual: int
    text: int
    arguments: dict[str, Tensor] = field(default_factory=dict)
    around: tuple[int, ...] = ()
    token_types: bool = False

    def full(self) -> Any:
        """The configuration of the whole model, a new one each time."""
        return AutoConfig.for_model(**copy.deepcopy(self.config))

    @property
    def all_layers(self) -> int:
        """Layers of the language model."""
        return int(self.full().get_text_config().num_hidden_layers)

    @property
    def width(self) -> int:
        """Features of a visual token as the language model sees it."""
        return int(self.full().get_text_config().hidden_size)

    def build(self, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu") -> Any:
        """The model, cut to `layers`, of small random weights, made on the device itself.

        Buffers that are computed, such as rotary frequencies, are computed there too.
        """
        config = copy.deepcopy(self.config)
        config["text_config"]["num_hidden_layers"] = self.layers
        with no_init_weights(), torch.device(device):
            model = AutoModelForImageTextToText.from_config(
                AutoConfig.for_model(**config), dtype=dtype
            )
        fill(model)
        settings = model.generation_config
        settings.eos_token_id, settings.pad_token_id = None, 0
        settings.suppress_tokens = [model.config.image_token_id]
        return model.eval()

    def inputs(
        self, seed: int, dtype: torch.dtype = torch.bfloat16, batch: int = 1
    ) -> dict[str, Tensor]:
        """What a processor would return: random pixels, and the text behind the image.

        The prompts of a batch are equal, so that they are as long as each other.
        """
        generator = torch.Generator().manual_seed(seed)
        words = torch.randint(3, 100, (1, self.text), generator=generator)
        config = self.full()
        image = torch.full((1, self.visual), int(config.image_token_id))
        around = [torch.tensor([[int(x)]]) for x in self.around]
        ids = torch.cat([words[:, :1], *around[:1], image, *around[1:], words[:, 1:]], dim=1)
        pixels = torch.randn(self.pixels, generator=generator)
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pixels.to(dtype),
            **self.arguments,
        }
        if self.token_types:
            inputs["mm_token_type_ids"] = (ids == int(config.image_token_id)).int()
        return {
            name: x.repeat(batch, *[1] * (x.ndim - 1)) if batch > 1 else x
            for name, x in inputs.items()
        }


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    """Fill matrices with small normal numbers (one draw for all), and norms with ones.

    On any device, with the same numbers; the draw is copied there once.
    """
    tile = torch.randn(_TILE, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    for name, parameter in model.named_parameters():
        tile = tile.to(parameter.device)
        if parameter.ndim < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            for part in parameter.view(-1).split(_TILE):
                part.copy_(tile[: len(part)])


# As published on the Hugging Face hub: llava-hf/llava-1.5-7b-hf. 45 is the mean length of the text
# in the eleven benchmarks of the paper.
LLAVA = Shape(
    name="LLaVA-1.5-7B",
    config={
        "model_type": "llava",
        "image_token_id": 32000,
        "vision_feature_layer": -2,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 4096,
        },
    },
    layers=8,
    pixels=(1, 3, 336, 336),
    visual=576,
    text=45,
)

# llava-hf/llava-1.5-13b-hf.
LLAVA_13B = replace(
    LLAVA,
    name="LLaVA-1.5-13B",
    config=LLAVA.config
    | {
        "text_config": LLAVA.config["text_config"]
        | {
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "num_key_value_heads": 40,
        }
    },
)

# llava-hf/llava-onevision-qwen2-0.5b-ov-hf. A square image is seen twice, as overview and as one
# tile, with a newline token at the end of each of the tile's 27 rows.
ONEVISION = Shape(
    name="LLaVA-OneVision-0.5B",
    config={
        "model_type": "llava_onevision",
        "image_token_id": 151646,
        "vision_feature_layer": -1,
        "tie_word_embeddings": True,
        "image_grid_pinpoints": [[384, 384], [384, 768], [768, 384], [768, 768]],
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 152000,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
        },
    },
    layers=24,
    pixels=(1, 2, 3, 384, 384),
    visual=2 * 27 * 27 + 27,
    text=45,
    arguments={"image_sizes": torch.tensor([[384, 384]])},
)

_QWEN_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
# As published on the Hugging Face hub: Qwen/Qwen2.5-VL-7B-Instruct. transformers' defaults are not
# these but those of the 72B.
_QWEN: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "tie_word_embeddings": False,
    "vision_config": _QWEN_VISION,
    "text_config": {
        "model_type": "qwen2_5_vl_text",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
    },
}


def _qwen(name: str, config: dict[str, Any], layers: int, height: int, width: int) -> Shape:
    """A Qwen2.5-VL and one image of height x width tokens, each of 2 x 2 patches of 14 pixels."""
    patches = 4 * height * width
    return Shape(
        name=name,
        config=config,
        layers=layers,
        pixels=(patches, 3 * 2 * 14 * 14),
        visual=height * width,
        text=45,
        arguments={"image_grid_thw": torch.tensor([[1, 2 * height, 2 * width]])},
        around=(config["vision_start_token_id"], config["vision_end_token_id"]),
        token_types=True,
    )


QWEN_1296 = _qwen("Qwen2.5-VL-7B", _QWEN, 28, 36, 36)
QWEN_4000 = _qwen("Qwen2.5-VL-7B", _QWEN, 28, 50, 80)

TINY_QWEN = _qwen(
    "tiny Qwen2.5-VL",
    _QWEN
    | {
        "image_token_id": 127,
        "video_token_id": 126,
        "vision_start_token_id": 125,
        "vision_end_token_id": 124,
        "vision_config": _QWEN_VISION
        | {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 4,
            "out_hidden_size": 256,
            "fullatt_block_indexes": [1],
        },
        "text_config": _QWEN["text_config"]
        | {
            "vocab_size": 128,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [8, 12, 12],
            },
        },
    },
    2,
    8,
    12,
)

TINY = Shape(
    name="tiny LLaVA",
    config={
        "model_type": "llava",
        "image_token_id": 127,
        "vision_feature_layer": -2,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 112,
            "patch_size": 14,
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": 128,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
    },
    layers=2,
    pixels=(1, 3, 112, 112),
    visual=64,
    text=12,
)
