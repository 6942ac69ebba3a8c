"""What `otprune bench alignment` measures: ratios, settings of `otprune.prune`, sizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from otprune.engines.transformers.positions import Positions
from otprune_bench.methods import PUBLISHED, RANDOM

KEEPS = (0.5, 0.25, 0.111, 0.098, 0.05)
AT = 0.098  # the ratio of the paper's table, and of the tables of one ratio here
# The settings of `otprune.prune`: name, merge, positions.
SETTINGS: tuple[tuple[str, bool, Positions], ...] = (
    ("as kept, preserved", False, "preserved"),
    ("as kept, compact", False, "compact"),
    ("merged, preserved", True, "preserved"),
    ("merged, compact", True, "compact"),
)
AS_KEPT, MERGED = SETTINGS[0][0], SETTINGS[2][0]
OVERLAYS = 10  # images, with what these methods keep of them
OVERLAID = (PUBLISHED, "otprune", "transport", "divprune", RANDOM)
OUTCOMES = ("wrong answers", "answer loss")
SCOPES = ("within", "pooled")


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        seed: of tasks, random pruning and bootstrap.
        images: each with some nine questions.
        measured: of the images, how many distances are measured on.
        random_seeds: independent runs of random pruning.
        draws: of each bootstrap.
        photographs: whether held-out photographs lie below the stickers; else smooth noise.
    """

    seed: int = 0
    images: int = 288
    measured: int = 48
    random_seeds: int = 5
    draws: int = 2000
    photographs: bool = True

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        return {**asdict(self), "keep": KEEPS}


FULL = Plan()
QUICK = Plan(images=24, measured=4, draws=200, photographs=False)
