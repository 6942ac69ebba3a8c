"""What `otprune bench tokens` measures: sizes of the encoder's input, ratios, measures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from otprune.encoders import vit_s
from otprune_bench.embedded import photographs

MEASURES = {
    "gaussian_w2": "Gaussian W2²",
    "exact_w2": "exact W2²",
    "free_mass_w2": "free-mass W2²",
    "certificate": "certificate",
    "evidence": "sticker tokens kept, %",
    "objects": "objects kept, %",
}
SHARES = ("evidence", "objects")


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        images: how many, every one with two to five stickers on another photograph.
        sizes: of the encoder's input in pixels: 256, 576 and 1024 tokens.
        photographs: whether there are photographs below; else smooth noise.
    """

    seed: int = 0
    images: int = len(photographs.NAMES)
    sizes: tuple[int, ...] = vit_s.SIZES
    keeps: tuple[float, ...] = (0.25, 0.098, 0.05)
    photographs: bool = True

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        return asdict(self)


FULL = Plan()
QUICK = Plan(images=4, sizes=vit_s.SIZES[:1], photographs=False)


def tokens_of(size: int) -> int:
    """Tokens of an image of `size` pixels a side."""
    return int((size // vit_s.PATCH) ** 2)


def key(name: str, keep: float, size: int) -> str:
    """A case's name."""
    return f"{name}@{keep}, {tokens_of(size)} tokens"
