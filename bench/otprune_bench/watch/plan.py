"""What `otprune bench watch` measures: sizes of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

QUESTION = "Is there a red circle?"
SESSION, GRID, OTPRUNE = "session", "whole clip, grid", "whole clip, otprune"
EMBEDDED = "embedded"


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        frames: of the long session.
        every: how many frames a point of its curve stands for.
        rate, memory: of the long session, in tokens.
        clip: frames of the clip about which is asked.
        kept: tokens a frame of that clip.
        repeats: rounds of all ways to answer.
        large: whether LLaVA-OneVision-0.5B is run too, once, on `large_clip` frames.
    """

    seed: int = 0
    frames: int = 10_000
    every: int = 200
    rate: float = 8.0
    memory: int = 512
    clip: int = 64
    kept: int = 8
    repeats: int = 3
    large: bool = True
    large_clip: int = 16
    photographs: bool = True

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        return asdict(self)


FULL = Plan()
QUICK = Plan(frames=60, every=10, clip=8, repeats=1, large=False, photographs=False)
