"""What `otprune bench encoder` measures: encoder stages, models, goals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from otprune.encoders import vit_s
from otprune.selectors import DPPPrune, TransportPrune
from otprune_bench.embedded import photographs
from otprune_bench.methods import NAMES, RANDOM, Choose, methods
from otprune_bench.timing.shapes import LLAVA, ONEVISION, TINY, Shape

SPLITS = ("validation", "test")  # to choose by, and to look at once; those of the mass bench
LAYERS, TOKENS, WIDTH = 5, 144, 128  # of the embedded model's encoder
FINALS = (1.0, 0.098, 0.05)  # of the tokens, what the language model gets; 1.0 is all
ONE = "one selection"  # behind the encoder, none inside it


class Stage(NamedTuple):
    """One encoder stage: method, its ratio, layers before it, whether kept tokens have mass.

    It selects in the layer behind those, between attention and MLP.
    """

    method: str
    keep: float
    after: int
    mass: bool

    def __str__(self) -> str:
        mass = "mass" if self.mass else "no mass"
        return f"{self.method}@{self.keep:g} after {self.after}, {mass}"

    def work(self, layers: int, tokens: int, width: int) -> float:
        """Multiplications of an encoder, in layers that work on all tokens.

        An MLP is counted as four times as wide as the tokens.
        """

        def attention(n: float) -> float:
            return n * (4 * width**2 + 2 * n * width)

        mlp, kept = 8 * width**2, self.keep * tokens
        one = attention(tokens) + tokens * mlp
        behind = (layers - self.after - 1) * (attention(kept) + kept * mlp)
        return self.after + (attention(tokens) + kept * mlp + behind) / one


class Goal(NamedTuple):
    """Most relative squared error wanted after so many of the ViT-S/14's layers, at a ratio."""

    after: int
    keep: float
    error: float


DEFAULT = Stage("dpp", 0.35, 3, True)  # `EncoderStage(0.35)` in the embedded model
EARLIER = tuple(DEFAULT._replace(method=name, after=2) for name in ("transport", "dpp"))
GOALS = (Goal(6, 0.35, 0.03), Goal(3, 0.35, 0.10))
LEAST = {0.098: 0.99, 0.05: 0.97}  # of the unpruned accuracy, over all questions
LEAST_KIND = {0.098: 0.97}  # and in every kind of question
MOST_SELECTION = 0.03  # of the encoder's time, unpruned

MAIN = ("transport", "dpp")  # methods that are measured at every setting
EUCLIDEAN = "transport, euclidean"  # between hidden states as they are, not at length one
FEW = ("otprune", "transport", EUCLIDEAN, "divprune", "dpp", "grid", RANDOM)
ORDER = tuple(x for name in NAMES for x in ((name, EUCLIDEAN) if name == MAIN[0] else (name,)))
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
_MIDDLE = ((2, 0.5), (2, 0.35), (3, 0.5), (3, 0.35))
SWEEP = (*stages(MAIN, EVERYWHERE, WITH), *stages([EUCLIDEAN], _MIDDLE, WITH))
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
    (
        448,
        (
            *stages((MAIN[0], EUCLIDEAN, MAIN[1], RANDOM), _GOALS, WITH),
            *stages(MAIN[:1], _GOALS, (False,)),
        ),
    ),
)


@dataclass(frozen=True)
class Timed:
    """A model whose calls are timed.

    Attributes:
        name: of the model.
        stages: what is timed, each with the `finals`.
        finals: ratios of the language model's tokens; none for an encoder alone.
        size: of the ViT-S/14's input in pixels; 0 for the other models.
        shape: of a model with random weights; None for the embedded model and the ViT-S/14.
        layers: of the encoder, where times are plotted against the embedded model's accuracy after
            the same share of layers; 0 where they are not.
        rounds: calls of every setting.
    """

    name: str
    stages: tuple[Stage, ...]
    finals: tuple[float, ...] = ()
    size: int = 0
    shape: Shape | None = None
    layers: int = 0
    rounds: int = 3


EMBEDDED = "embedded model"
_AFTER = {1: 2, 2: 5, 3: 7, 4: 10}  # of 12 layers, nearest to the share of 5


def _halves(layers: int) -> tuple[Stage, ...]:
    """Cuts after a quarter and half of the layers."""
    where = [(layers // share, keep) for share in (4, 2) for keep in (0.5, 0.35, 0.25)]
    return (*stages(MAIN[:1], where, WITH), *stages(MAIN[1:], where[1::3], WITH))


TIMED = (
    Timed(EMBEDDED, TESTED, FINALS[1:], layers=LAYERS, rounds=7),
    Timed(
        "ViT-S/14, 576 tokens",
        tuple(stage._replace(after=_AFTER[stage.after]) for stage in TESTED),
        size=336,
        layers=12,
    ),
    Timed("ViT-S/14, 1024 tokens", _halves(12), size=448, rounds=5),
    Timed(
        "CLIP ViT-L/14 of LLaVA-1.5, 576 tokens",
        stages(MAIN, [(6, 0.35), (12, 0.35)], WITH),
        shape=LLAVA,
        rounds=2,
    ),
    Timed(
        ONEVISION.name,
        (
            *stages(MAIN[:1], [(5, 0.5), (10, 0.5), (10, 0.35), (16, 0.5), (16, 0.35)], WITH),
            *stages(MAIN[1:], [(16, 0.35)], WITH),
        ),
        FINALS[1:2],
        shape=ONEVISION,
        layers=26,
        rounds=2,
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


_FEW = (DEFAULT, DEFAULT._replace(mass=False), EARLIER[0])
QUICK = Plan(
    images=4,
    photos=2,
    photographs=False,
    answers=tuple((split, _FEW) for split in SPLITS),
    features=((224, tuple(s._replace(after=g.after) for g in GOALS for s in _FEW)),),
    timed=(
        Timed(EMBEDDED, _FEW, FINALS[1:], layers=LAYERS, rounds=2),
        Timed("ViT-S/14, 256 tokens", (DEFAULT._replace(after=7),), size=224, layers=12, rounds=2),
        Timed(TINY.name, (Stage("transport", 0.35, 1, True),), shape=TINY, rounds=2),
    ),
)
FULL = Plan()


def chooser(method: str, seed: int) -> Choose:
    """The selector of a method for a ratio and an image; random pruning draws for every image."""
    if method == EUCLIDEAN:
        return lambda keep, image: TransportPrune(keep, metric="euclidean")
    return methods(seed, random_seeds=1)[f"{RANDOM} 0" if method == RANDOM else method]


def behind(keep: float) -> dict[str, Any]:
    """The selection behind the encoder, as `otprune.prune` takes it.

    That of `otprune.recommended` without its distance term.
    """
    return {"selector": DPPPrune(keep), "merge": True, "mass": "token"}


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
