"""What pruning costs: answers of the embedded model with every method, ratio and setting."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from otprune.demo import load
from otprune.engines.transformers.positions import Positions
from otprune.selectors import METHODS, OTPrune, RandomPrune, Selector
from otprune_bench.embedded import scoring, spaces, tasks
from otprune_bench.runs.cases import Case
from otprune_training import photos as photographs

KEEPS = (0.5, 0.25, 0.111, 0.098, 0.05)
PUBLISHED, RANDOM, UNPRUNED = "otprune, gamma 0.01", "random", "unpruned"
# The settings of `otprune.prune`: name, merge, positions.
SETTINGS: tuple[tuple[str, bool, Positions], ...] = (
    ("as kept, preserved", False, "preserved"),
    ("as kept, compact", False, "compact"),
    ("merged, preserved", True, "preserved"),
    ("merged, compact", True, "compact"),
)
PLAIN = SETTINGS[0][0]
CHUNK = 16  # images a forward: more gain nothing on a CPU


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


QUICK = Plan(images=24, measured=4, draws=200, photographs=False)

# The selector that prunes image number p at a ratio.
Choose = Callable[[float, int], Selector]


def methods(plan: Plan) -> dict[str, Choose]:
    """Name to selector; each seed of random pruning is a method of its own, "random 0" and so on.

    A random seed draws anew for every image: `RandomPrune` with one seed keeps the same places
    in all images, and five such patterns would say little about randomness.
    """
    found: dict[str, Choose] = {PUBLISHED: lambda keep, p: OTPrune(keep, gamma=0.01)}
    for name, method in METHODS.items():
        if name != RANDOM:
            found[name] = lambda keep, p, method=method: method(keep)  # type: ignore[misc]
    for s in range(plan.random_seeds):
        number = (plan.seed * plan.random_seeds + s) * 1_000_003
        found[f"{RANDOM} {s}"] = lambda keep, p, first=number: RandomPrune(  # type: ignore[misc]
            keep, seed=first + p
        )
    return found


class World:
    """The tasks of a run, and the embedded model's tokens of their images."""

    def __init__(self, plan: Plan, photos: Path) -> None:
        self.plan = plan
        below = backgrounds(plan.photographs, photos, plan.seed)
        self.tasks = tasks.make(below, plan.images, plan.seed)
        self.questions = tasks.Questions.about(self.tasks)

    @cached_property
    def model(self) -> tuple[Any, Any]:
        return load()

    @cached_property
    def tokens(self) -> Tensor:
        """`(P, 144, 128)`."""
        model, processor = self.model
        images = [task.image for task in self.tasks]
        return torch.cat(
            [scoring.encode(model, processor, images[at]) for at in chunks(len(images))]
        )

    @cached_property
    def sheets(self) -> list[scoring.Sheet]:
        asked = [task.questions for task in self.tasks]
        return [scoring.pack(asked[at]) for at in chunks(len(asked))]

    def run(self, keep: float, choose: Choose) -> dict[str, Any]:
        """One case: every question in every setting, and what of the images was kept."""
        m = self.tokens.shape[1]
        alike = choose(keep, 0) == choose(keep, 1)
        kept, scores = [], {name: ([], []) for name, _, _ in SETTINGS}  # type: ignore[var-annotated]
        for at, sheet in zip(chunks(len(self.tasks)), self.sheets, strict=True):
            tokens = self.tokens[at]
            if alike:
                made = choose(keep, 0).reduce(tokens, merge=True)
                indices, merged = made.indices, made.features
            else:
                each = [
                    choose(keep, at.start + i).reduce(x, merge=True) for i, x in enumerate(tokens)
                ]
                indices = torch.stack([made.indices for made in each])
                merged = torch.stack([made.features for made in each])
            kept.append(indices)
            rows = tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))
            for name, merge, positions in SETTINGS:
                found = scoring.score(
                    self.model[0], sheet, merged if merge else rows, indices, m, positions
                )
                scores[name][0].extend(found.answers.tolist())
                scores[name][1].extend(round(x, 4) for x in found.losses.tolist())
        return {
            "scores": {name: {"answers": a, "losses": x} for name, (a, x) in scores.items()},
            **self._coverage(torch.cat(kept)),
            "distances": self._distances(torch.cat(kept[: -(-self.plan.measured // CHUNK)])),
        }

    def unpruned(self) -> dict[str, Any]:
        """The case that all others are compared with; every setting is the same here."""
        whole = torch.arange(self.tokens.shape[1])
        answers: list[int] = []
        losses: list[float] = []
        for at, sheet in zip(chunks(len(self.tasks)), self.sheets, strict=True):
            tokens = self.tokens[at]
            indices = whole.expand(len(tokens), -1)
            found = scoring.score(
                self.model[0], sheet, tokens, indices, len(whole), positions="preserved"
            )
            answers += found.answers.tolist()
            losses += [round(x, 4) for x in found.losses.tolist()]
        return {"scores": {PLAIN: {"answers": answers, "losses": losses}}}

    def _coverage(self, kept: Tensor) -> dict[str, list[float]]:
        """Share of evidence tokens kept, `(Q,)`, NaN without; of objects with one kept, `(P,)`."""
        evidence, objects = [], []
        for task, indices in zip(self.tasks, kept.numpy(), strict=True):
            for question in task.questions:
                there = task.evidence(question)
                evidence.append(there[indices].sum() / there.sum() if there.any() else np.nan)
            objects.append(task.objects()[:, indices].any(1).mean())
        return {"evidence": [float(x) for x in evidence], "objects": [float(x) for x in objects]}

    def _distances(self, kept: Tensor) -> dict[str, list[float | None]]:
        """Every distance, `(measured,)`."""
        rows = [
            spaces.measure(tokens, indices)
            for tokens, indices in zip(
                self.tokens[: self.plan.measured], kept[: self.plan.measured], strict=True
            )
        ]
        return {name: [_rounded(row[name]) for row in rows] for name in spaces.NAMES}


def cases(world: World) -> Iterable[Case]:
    """Every method at every ratio, "method@keep", and "unpruned" in front."""
    yield UNPRUNED, world.unpruned
    for name, choose in methods(world.plan).items():
        for keep in KEEPS:
            yield f"{name}@{keep}", lambda k=keep, c=choose: world.run(k, c)  # type: ignore[misc]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def chunks(number: int) -> list[slice]:
    """Images that share a forward."""
    return [slice(i, min(i + CHUNK, number)) for i in range(0, number, CHUNK)]


def backgrounds(wanted: bool, photos: Path, seed: int) -> list[Image.Image]:
    """The held-out photographs, collected into `photos` if not there; not wanted, smooth noise."""
    if not wanted:
        return tasks.backgrounds(12, seed)
    return photographs.load(photos, held_out=True)
