"""What `otprune bench quality` measures: ratios, sizes, and shapes for times."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KEEPS = (0.25, 0.098, 0.05, 0.028, 0.014)  # 36, 14, 7, 4 and 2 of 144 tokens
SCARCE = (0.05, 0.028, 0.014)
GROUPS = {
    "ours": "otprune's own",
    "mixed": "choices of others with otprune's mass",
    "tokens": "other methods that see the image alone",
    "question": "other methods that hear the question",
    "inside": "inside the language model, behind its first layer",
    "baseline": "baselines",
}
WILD_KEEPS = (0.098, 0.05)  # at which a feature dominates what methods are shown
WILD = 10.0  # mean norms of the tokens
BASE = "dpp"  # what paired differences are taken to
SMALLER = "image made smaller"


@dataclass(frozen=True)
class Shape:
    """One set of tokens whose selection is timed: m tokens of d features, k kept; n of text."""

    m: int
    d: int
    k: int
    n: int = 20

    def __str__(self) -> str:
        return f"{self.m} x {self.d}, keep {self.k}"


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        seed: of tasks and random pruning.
        images: each with some ten questions.
        split: "validation", to choose by, or "test", to look at once: other scenes on other
            photographs.
        random_seeds: independent runs of random pruning.
        photographs: whether held-out photographs lie below the stickers; else smooth noise.
        shapes: for times of all methods on the first, and of ours on all.
        repeats: of each time.
        lines: names of the lines of the table that are run beside the baselines and `BASE`, without
            times; empty for all.
        own: more methods, classes by name ("package.module:Class"); their times are not taken.
    """

    seed: int = 0
    images: int = 288
    split: str = "test"
    random_seeds: int = 3
    photographs: bool = True
    shapes: tuple[Shape, ...] = (Shape(576, 1024, 56), Shape(2340, 4096, 229))
    repeats: int = 9
    own: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        made = {**asdict(self), "shapes": [str(shape) for shape in self.shapes], "keep": KEEPS}
        return {name: x for name, x in made.items() if x or name not in ("own", "lines")}


FULL = Plan()
# A few lines of every kind; the tests run all of them on two images.
QUICK = Plan(
    images=3,
    random_seeds=1,
    photographs=False,
    shapes=(Shape(64, 32, 6, 5),),
    repeats=3,
    lines=("transport, question 0.9 + mass", "simplex + merge, mass, distance", "scope", "fastv"),
)
