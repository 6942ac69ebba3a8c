"""What `otprune bench encoder` measures: encoder stages, models, goals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from otprune.encoders import vit_s
from otprune_bench.embedded import photographs
from otprune_bench.methods import NAMES, RANDOM
from otprune_bench.timing.shapes import LLAVA, ONEVISION, TINY, Shape

SPLITS = ("validation", "test")  # to choose by, and to look at once; those of the mass bench
LAYERS = 5  # of the embedded model's encoder
FINALS = (1.0, 0.098, 0.05)  # of the tokens, what the language model gets; 1.0 is all
ONE = "one selection"  # behind the encoder, none inside it


class Stage(NamedTuple):
    """One encoder stage: method, its ratio, layers before it, whether kept tokens have mass."""

    method: str
    keep: float
    after: int
    mass: bool

    def __str__(self) -> str:
        mass = "mass" if self.mass else "no mass"
        return f"{self.method}@{self.keep:g} after {self.after}, {mass}"


class Goal(NamedTuple):
    """Most relative squared error wanted after so many of the ViT-S/14's layers, at a ratio."""

    after: int
    keep: float
    error: float


DEFAULT = Stage("transport", 0.35, 2, True)  # `EncoderStage(0.35)` in the embedded model
GOALS = (Goal(6, 0.35, 0.03), Goal(3, 0.35, 0.10))
LEAST = {0.098: 0.99, 0.05: 0.97}  # of the unpruned accuracy, over all questions
LEAST_KIND = {0.098: 0.97}  # and in every kind of question
MOST_SELECTION = 0.03  # of the encoder's time, unpruned

MAIN = ("transport", "dpp")  # methods that are measured at every setting
FEW = ("otprune", "transport", "divprune", "dpp", "grid", RANDOM)
EVERYWHERE = tuple((after, keep) for after in range(1, LAYERS) for keep in (0.5, 0.35, 0.25))
COMPARED = ((2, 0.5), (3, 0.35))  # of the embedded model: settings of every method


def stages(
    methods: Iterable[str], where: Iterable[tuple[int, float]], masses: Iterable[bool]
) -> tuple[Stage, ...]:
    """Every method at every setting `(after, keep)`."""
    masses = tuple(masses)
    return tuple(
        Stage(name, keep, after, mass)
        for after, keep in where
        for name in methods
        for mass in masses
    )


BOTH, WITH = (True, False), (True,)
SWEEP = stages(MAIN, EVERYWHERE, WITH)
TESTED = tuple(dict.fromkeys([*stages(NAMES, COMPARED, BOTH), *SWEEP]))
_GOALS = tuple((goal.after, goal.keep) for goal in GOALS)
_OTHERS = ((2, 0.35), (3, 0.5), (3, 0.25), (4, 0.35), (6, 0.5), (6, 0.25), (8, 0.35))
FEATURES = (
    (
        336,
        (
            *stages(FEW, _GOALS, BOTH),
            *stages((*MAIN, RANDOM), _OTHERS, WITH),
            *stages(MAIN[:1], _OTHERS, (False,)),
        ),
    ),
    (448, (*stages((*MAIN, RANDOM), _GOALS, WITH), *stages(MAIN[:1], _GOALS, (False,)))),
)


@dataclass(frozen=True)
class Timed:
    """A model whose calls are timed.

    Attributes:
        name: of the model.
        shape: of a model with random weights; None for the embedded model and the ViT-S/14.
        tower: only its encoder is called.
        stages: what is timed, each with the `finals`.
        finals: ratios of the language model's tokens; none for an encoder alone.
        size: of the ViT-S/14's input in pixels; 0 for the other models.
        rounds: calls of every setting.
    """

    name: str
    stages: tuple[Stage, ...]
    finals: tuple[float, ...] = ()
    shape: Shape | None = None
    tower: bool = False
    size: int = 0
    rounds: int = 3


EMBEDDED = "embedded model"


def _encoder(name: str, layers: int, rounds: int, **more: Any) -> Timed:
    """An encoder alone, cut after a quarter and a half of its layers."""
    where = [(layers // share, keep) for share in (4, 2) for keep in (0.5, 0.35, 0.25)]
    few = [(layers // share, 0.35) for share in (4, 2)]
    measured = (*stages(MAIN[:1], where, WITH), *stages(MAIN[1:], few, WITH))
    return Timed(name, measured, tower=True, rounds=rounds, **more)


TIMED = (
    Timed(EMBEDDED, TESTED, FINALS[1:], rounds=7),
    _encoder("ViT-S/14, 576 tokens", 12, 5, size=336),
    _encoder("ViT-S/14, 1024 tokens", 12, 5, size=448),
    _encoder("CLIP ViT-L/14 of LLaVA-1.5, 576 tokens", 24, 3, shape=LLAVA),
    # After as large a share of its 26 layers as in the embedded model.
    Timed(
        ONEVISION.name,
        (
            *stages(MAIN[:1], [(i, k) for i in (5, 10, 16) for k in (0.5, 0.35, 0.25)], WITH),
            *stages(MAIN[1:], [(10, 0.35)], WITH),
        ),
        FINALS[1:2],
        ONEVISION,
    ),
)


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        seed: of the images, of random pruning and of the order of timed calls.
        images: of the embedded model, in each split; each with some ten questions.
        photos: of the ViT-S/14.
        photographs: whether they are photographs, and photographs lie below the stickers; else
            smooth noise.
        answers: split to stages of the embedded model.
        features: input size of the ViT-S/14 in pixels to its stages.
        timed: models whose calls are timed.
    """

    seed: int = 0
    images: int = 128
    photos: int = len(photographs.NAMES)
    photographs: bool = True
    answers: tuple[tuple[str, tuple[Stage, ...]], ...] = ((SPLITS[0], SWEEP), (SPLITS[1], TESTED))
    features: tuple[tuple[int, tuple[Stage, ...]], ...] = FEATURES
    timed: tuple[Timed, ...] = TIMED

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        return {
            "seed": self.seed,
            "images": self.images,
            "photos": self.photos,
            "photographs": self.photographs,
        }


_FEW = (DEFAULT, DEFAULT._replace(mass=False), DEFAULT._replace(method="dpp"))
QUICK = Plan(
    images=4,
    photos=2,
    photographs=False,
    answers=tuple((split, _FEW) for split in SPLITS),
    features=((224, tuple(s._replace(after=g.after) for g in GOALS for s in _FEW)),),
    timed=(
        Timed(EMBEDDED, _FEW, FINALS[1:], rounds=2),
        Timed("ViT-S/14, 256 tokens", _FEW[:1], tower=True, size=224, rounds=2),
        Timed(TINY.name, (Stage("transport", 0.35, 1, True),), (0.098,), TINY),
    ),
)
FULL = Plan()


def tokens_of(size: int) -> int:
    """Tokens of a photograph of `size` pixels a side."""
    return int((size // vit_s.PATCH) ** 2)


def features_key(size: int, stage: Stage) -> str:
    """Name of a case of features."""
    return f"features of {tokens_of(size)} tokens, {stage}"


def answers_key(split: str, stage: Stage | str) -> str:
    """Name of a case of answers: a stage, `UNPRUNED` or `ONE`."""
    return f"answers, {split}, {stage}"


def time_key(timed: Timed, number: int) -> str:
    """Name of a round of timed calls."""
    return f"time of {timed.name}, round {number}"


def call_key(stage: Stage | str, final: float | None) -> str:
    """Name of a timed call within a round."""
    return str(stage) if final is None else f"{stage}; {final:g}"
