"""The methods of the table, each as `otprune.prune` would be given it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from otprune.engines.common.layer_stage import LayerStage, Rank
from otprune.measures.mass import Mass
from otprune.selectors import METHODS, GridPrune, OTPrune, RandomPrune, Selector, TransportPrune
from otprune.selectors.named import class_of
from otprune_bench.methods import PUBLISHED, RANDOM
from otprune_bench.quality.plan import SMALLER

# The first layer of the embedded model's four that runs pruned. Two of four would leave the
# methods a look that others do not have.
_AFTER = 1


@dataclass(frozen=True)
class Contender:
    """One line of the table.

    Attributes:
        name: of the line.
        group: a key of `GROUPS`.
        selector: from number of tokens and number of the image to the selector; None for the image
            made smaller.
        merge, mass, distance: as for `otprune.prune`.
        layers: from number of tokens to the stage inside the language model, or None.
        note: what differs from the method's own default; for the table.
    """

    name: str
    group: str
    selector: Callable[[int, int], Selector] | None
    merge: bool = False
    mass: Mass = "none"
    distance: bool = False
    layers: Callable[[int], LayerStage] | None = None
    note: str = ""

    @property
    def hears(self) -> bool:
        """Whether the choice depends on the question."""
        return self.selector is not None and "question" in self.selector(1, 0).uses


def _plain(method: Callable[..., Selector], settings: dict[str, Any], k: int, _: int) -> Selector:
    return method(k, **settings)


def _drawn(first: int, k: int, image: int) -> Selector:
    """Another draw for every image: one pattern for all would say little about randomness."""
    return RandomPrune(k, seed=first + image)


def _inside(rank: Rank, k: int) -> LayerStage:
    return LayerStage(after=_AFTER, rank=rank) if rank == "vtw" else LayerStage(_AFTER, k, rank)


def _one(name: str, group: str, method: str, note: str = "", **more: Any) -> Contender:
    how = {key: more.pop(key) for key in ("merge", "mass", "distance") if key in more}
    return Contender(name, group, partial(_plain, METHODS[method], more), note=note, **how)


FULL_ATTENTION: dict[str, Any] = {"merge": True, "mass": "token", "distance": True}

# Methods whose published form merges; the plain subset is not what they claim.
_MERGING = {"visionzip", "prumerge", "prumerge+"}
_OURS = {"otprune", "transport", "herding", "simplex", "dpp"}
_BASELINES = {"norm", "grid"}
_MIXED = ("mmtok", "cdpruner", "scope")
# Which methods are shown tokens with a feature that dominates.
WILD = ("otprune", "transport", "dpp", "simplex", "divprune", "cdpruner", "mmtok")


def contenders(seed: int, random_seeds: int, own: Sequence[str] = ()) -> list[Contender]:
    """Every line, in the order of the table.

    Args:
        seed, random_seeds: of random pruning.
        own: methods of a user's own, as `class_of` imports them.
    """
    found = [
        Contender(PUBLISHED, "ours", partial(_plain, OTPrune, {"gamma": 0.01})),
        *(_one(name, "ours", name) for name in METHODS if name in _OURS),
        _one("otprune, question 0.5", "ours", "otprune", question=0.5),
        _one("dpp, question 0.1", "ours", "dpp", question=0.1),
        _one("simplex, question 0.1", "ours", "simplex", question=0.1),
        _one("transport, saliency 0.5", "ours", "transport", saliency=0.5),
        _one("transport, question 0.5", "ours", "transport", question=0.5),
        _one("transport, question 0.9", "ours", "transport", question=0.9),
        _one("dpp + merge, mass, distance", "ours", "dpp", **FULL_ATTENTION),
        _one("simplex + merge, mass, distance", "ours", "simplex", **FULL_ATTENTION),
        *(
            _one(f"transport, question {s} + mass", "ours", "transport", mass="token", question=s)
            for s in (0.5, 0.9)
        ),
        _one(
            "transport, question 0.9 + merge, mass, distance",
            "ours",
            "transport",
            question=0.9,
            **FULL_ATTENTION,
        ),
        *(_one(f"{name} + mass", "mixed", name, mass="token") for name in _MIXED),
        *(Contender(name, "ours", partial(_plain, class_of(name, own=True), {})) for name in own),
    ]
    theirs = [name for name in METHODS if name not in _OURS | _BASELINES | {RANDOM}]
    for name in theirs:
        group = "question" if "question" in METHODS[name].uses else "tokens"
        merge = name in _MERGING
        found.append(_one(name, group, name, "merged, as published" if merge else "", merge=merge))
    ranks: tuple[Rank, ...] = ("fastv", "pyramiddrop", "sparsevlm", "dart", "vtw")
    whole = partial(_plain, GridPrune, {})
    for rank in ranks:
        layers = partial(_inside, rank)
        note = "keeps none behind the layer" if rank == "vtw" else ""
        found.append(Contender(rank, "inside", whole, layers=layers, note=note))
    found += [_one(name, "baseline", name) for name in METHODS if name in _BASELINES]
    found.append(Contender(SMALLER, "baseline", None))
    found += [
        Contender(
            f"{RANDOM} {i}",
            "baseline",
            partial(_drawn, (seed * random_seeds + i) * 1_000_003),
        )
        for i in range(random_seeds)
    ]
    return found


def timed(k: int) -> dict[str, Selector]:
    """The selectors whose times are compared, at their own defaults."""
    found = {name: method(k) for name, method in METHODS.items() if name != RANDOM}
    found["transport, question 0.8"] = TransportPrune(k, question=0.8)
    return found
