"""What `otprune bench stream` measures: a long stream, and videos of moving stickers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

STREAM, VIDEO = "stream", "all frames at hand"
MEASURES = ("share", "value", "gaussian_w2", "free_mass_w2", "free_mass_w2_rows", "arrivals")
# Of the synthetic camera: rank of its tokens, tokens a frame that the view moves on, frames a cut.
RANK, PAN, CUT = 100, 8, 250


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        frames, tokens, features: of the long stream.
        rate: tokens a frame that it may keep.
        every: how many frames a point of its curve stands for.
        videos, shots, length: the moving images on which choices are compared.
        keep: what the stream may keep of them on average.
    """

    seed: int = 0
    frames: int = 10_000
    tokens: int = 196
    features: int = 1024
    rate: float = 16.0
    every: int = 200
    videos: int = 8
    shots: int = 4
    length: int = 24
    keep: float = 0.05
    photographs: bool = True

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        return asdict(self)


FULL = Plan()
QUICK = Plan(frames=600, every=50, videos=2, shots=2, length=8, photographs=False)
