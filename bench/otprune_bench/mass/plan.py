"""What `otprune bench mass` measures: weighings, ratios, lengths of text, models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from otprune.measures.mass import Mass
from otprune_bench.embedded.evaluation import EMBEDDED
from otprune_bench.embedded.tasks import check_split
from otprune_bench.methods import NAMES


class Weighing(NamedTuple):
    """`mass` and `alpha` of `otprune.prune`; shuffled: each mass goes to another kept token."""

    mass: Mass
    alpha: float = 1.0
    shuffled: bool = False


WEIGHINGS = {
    "none": Weighing("none"),
    "total": Weighing("total"),
    "total, alpha 0.5": Weighing("total", 0.5),
    "token": Weighing("token"),
    "token, alpha 0.5": Weighing("token", 0.5),
    "token, shuffled": Weighing("token", shuffled=True),
}
FORMS = {"as kept": False, "merged": True}  # of the kept tokens, by `merge` of `otprune.prune`
AT_LENGTH = (0.098, 0.05)  # ratios that are also measured behind other text


class Setting(NamedTuple):
    """One way to prune."""

    method: str
    form: str
    weighing: str

    def __str__(self) -> str:
        return f"`{self.method}`, {self.form}, {self.weighing}"


SETTINGS = [Setting(n, f, w) for n in NAMES for f in FORMS for w in WEIGHINGS]


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        split: "validation", to choose by, or "test", to look at once: other scenes on other
            photographs.
        models: name and folder of checkpoints of the embedded model's kind, beside it.
        keeps: ratios of a question alone.
        before: how many answered questions, of eight words each, come before the one asked.
    """

    seed: int = 0
    images: int = 128
    split: str = "validation"
    models: tuple[tuple[str, str], ...] = ()
    photographs: bool = True
    keeps: tuple[float, ...] = (0.5, 0.25, 0.098, 0.05)
    before: tuple[int, ...] = (0, 8, 24)

    def __post_init__(self) -> None:
        check_split(self.split)

    @property
    def names(self) -> list[str]:
        """Of all models."""
        return [EMBEDDED, *(name for name, _ in self.models)]

    def keeps_behind(self, before: int) -> tuple[float, ...]:
        """Ratios that are measured behind so many questions."""
        return AT_LENGTH if before else self.keeps

    def weighings_behind(self, before: int) -> tuple[str, ...]:
        """Weighings that are measured behind so many questions."""
        return ("none", "total", "token") if before else tuple(WEIGHINGS)

    def settings(self) -> dict[str, Any]:
        """As a report shows them: of a model its name, since its folder changes nothing."""
        return {
            "seed": self.seed,
            "images": self.images,
            "split": self.split,
            "models": [name for name, _ in self.models],
            "photographs": self.photographs,
        }


FULL = Plan()
QUICK = Plan(images=8, photographs=False)


def key(model: str, before: int, method: str, keep: float) -> str:
    """A case's name."""
    return f"{model}, {before} before, {method}@{keep}"
