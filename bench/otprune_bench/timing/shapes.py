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
    """

    name: str
    config: dict[str, Any]
    layers: int
    pixels: tuple[int, ...]
    visual: int
    text: int
    arguments: dict[str, Tensor] = field(default_factory=dict)

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

    def build(self, dtype: torch.dtype = torch.bfloat16) -> Any:
        """The model on the CPU, cut to `layers`, of small random weights."""
        config = copy.deepcopy(self.config)
        config["text_config"]["num_hidden_layers"] = self.layers
        with no_init_weights():
            model = AutoModelForImageTextToText.from_config(
                AutoConfig.for_model(**config), dtype=dtype
            )
        fill(model)
        settings = model.generation_config
        settings.eos_token_id, settings.pad_token_id = None, 0
        settings.suppress_tokens = [model.config.image_token_id]
        return model.eval()

    def inputs(self, seed: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
        """What a processor would return: random pixels, and the text behind the image."""
        generator = torch.Generator().manual_seed(seed)
        words = torch.randint(3, 100, (1, self.text), generator=generator)
        image = torch.full((1, self.visual), int(self.full().image_token_id))
        ids = torch.cat([words[:, :1], image, words[:, 1:]], dim=1)
        pixels = torch.randn(self.pixels, generator=generator)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pixels.to(dtype),
            **self.arguments,
        }


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    """Fill matrices with small normal numbers (one draw for all), and norms with ones."""
    tile = torch.randn(_TILE, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    for name, parameter in model.named_parameters():
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
