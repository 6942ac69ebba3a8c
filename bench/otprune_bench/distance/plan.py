"""What `otprune bench distance` measures: positions, forms, masses and distance terms."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

from otprune.engines.transformers.positions import Scheme
from otprune.measures.mass import Mass
from otprune_bench.embedded.evaluation import EMBEDDED
from otprune_bench.embedded.scoring import Distance
from otprune_bench.embedded.tasks import check_split

FORMS = {"as kept": False, "merged": True}  # of the kept tokens, by `merge` of `otprune.prune`


class Setting(NamedTuple):
    """How kept tokens are used."""

    positions: Scheme
    form: str
    mass: Mass
    distance: Distance

    def __str__(self) -> str:
        return ", ".join(self)


SETTINGS = [
    Setting(*each)
    for each in itertools.product(get_args(Scheme), FORMS, get_args(Mass), get_args(Distance))
]


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        split: "validation", to choose by, or "test", to look at once: other scenes on other
            photographs.
        models: name and folder of checkpoints of the embedded model's kind, beside it.
        methods: selectors, by name.
        keeps: ratios.
        before: how many answered questions, of eight words each, come before the one asked.
    """

    seed: int = 0
    images: int = 64
    split: str = "validation"
    models: tuple[tuple[str, str], ...] = ()
    photographs: bool = True
    methods: tuple[str, ...] = ("dpp",)
    keeps: tuple[float, ...] = (0.098, 0.05)
    before: tuple[int, ...] = (0, 24)

    def __post_init__(self) -> None:
        check_split(self.split)

    @property
    def names(self) -> list[str]:
        """Of all models."""
        return [EMBEDDED, *(name for name, _ in self.models)]

    def settings(self) -> dict[str, Any]:
        """As a report shows them: of a model its name, since its folder changes nothing."""
        return {
            "seed": self.seed,
            "images": self.images,
            "split": self.split,
            "models": [name for name, _ in self.models],
            "methods": list(self.methods),
            "photographs": self.photographs,
        }


FULL = Plan()
QUICK = Plan(images=4, photographs=False)


def key(model: str, before: int, method: str, keep: float) -> str:
    """A case's name."""
    return f"{model}, {before} before, {method}@{keep}"
