"""Attention mass: does it help when kept tokens weigh what they stand for, and where?

Every method, merged or not, with every way of weighing; on the embedded model and others of its
kind; alone and behind other text, since it is against text that an image loses its weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from otprune.demo import MODEL_DIR, load
from otprune.errors import OTPruneError
from otprune.measures.mass import Mass, log_mass
from otprune_bench.embedded import scoring, tasks
from otprune_bench.quality import cases as quality
from otprune_bench.quality.cases import RANDOM, UNPRUNED, Choose, chunks
from otprune_bench.runs.cases import Case

KEEPS = (0.5, 0.25, 0.098, 0.05)
SAID = (0, 8, 24)  # answered questions of eight words in front of the one asked
AT_LENGTH = (0.098, 0.05)  # ratios that are also asked behind other text
EMBEDDED = "embedded"


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
AT_LENGTH_WEIGHINGS = ("none", "total", "token")
MERGES = (False, True)
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        split: "validation", to choose by, or "test", to look at once: other scenes on other
            photographs.
        models: name and folder of checkpoints of the embedded model's kind, beside it.
    """

    seed: int = 0
    images: int = 128
    split: str = "validation"
    models: tuple[tuple[str, str], ...] = ()
    photographs: bool = True

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise OTPruneError(f"split is {self.split!r}: expected {' or '.join(SPLITS)}")

    def settings(self) -> dict[str, Any]:
        """As a report shows them; a folder's name is no setting, its model's name is."""
        return {**asdict(self), "models": [name for name, _ in self.models]}


QUICK = Plan(images=8, photographs=False)


class World:
    """The tasks of a split, in front of one model."""

    def __init__(self, plan: Plan, photos: Path) -> None:
        self.plan = plan
        split = SPLITS.index(plan.split)
        below = quality.backgrounds(plan.photographs, photos, plan.seed)[split::2]
        self.tasks = tasks.make(below, plan.images, 1000 * (1 + split) + plan.seed)
        self.questions = tasks.Questions.about(self.tasks)
        self.folders = {EMBEDDED: MODEL_DIR} | {name: Path(to) for name, to in plan.models}

    @cache  # noqa: B019 - a world lives as long as the run
    def seen(self, model: str) -> tuple[Any, Tensor]:
        """A model and its tokens of every image, `(P, 144, 128)`."""
        loaded, processor = load(self.folders[model])
        images = [task.image for task in self.tasks]
        return loaded, torch.cat(
            [scoring.encode(loaded, processor, images[at]) for at in chunks(len(images))]
        )

    @cache  # noqa: B019
    def sheets(self, said: int) -> list[scoring.Sheet]:
        """The questions, behind so many answered others."""
        before = [tasks.small_talk(task, said, self.plan.seed) for task in self.tasks]
        asked = [task.questions for task in self.tasks]
        return [scoring.pack(asked[at], before[at]) for at in chunks(len(asked))]

    def words(self, said: int) -> float:
        """Mean number of text tokens up to a question's end."""
        return float(
            np.mean(
                [
                    len(q.text.split()) + len(tasks.small_talk(task, said, self.plan.seed).split())
                    for task in self.tasks
                    for q in task.questions
                ]
            )
        )

    def run(
        self, model: str, said: int, keep: float, choose: Choose, weighings: Sequence[str]
    ) -> dict[str, Any]:
        """One case: `{"as kept" | "merged": {weighing: {"right": "0110...", "loss": (P,)}}}`."""
        loaded, tokens = self.seen(model)
        m = tokens.shape[1]
        hits: dict[tuple[bool, str], list[Tensor]] = {}
        losses: dict[tuple[bool, str], list[Tensor]] = {}
        for at, sheet in zip(chunks(len(self.tasks)), self.sheets(said), strict=True):
            made = [
                choose(keep, at.start + i).reduce(x, merge=True) for i, x in enumerate(tokens[at])
            ]
            indices = torch.stack([each.indices for each in made])
            masses = torch.stack([each.masses for each in made])
            merged = torch.stack([each.features for each in made])
            rows = tokens[at].gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))
            for name in weighings:
                bias = self._bias(WEIGHINGS[name], masses, m, at.start)
                for merge in MERGES:
                    found = scoring.score(
                        loaded, sheet, merged if merge else rows, indices, m, "preserved", bias
                    )
                    hits.setdefault((merge, name), []).append(found.answers == sheet.answer)
                    losses.setdefault((merge, name), []).append(found.losses)
        return {
            ("merged" if merge else "as kept"): {
                name: self._outcome(hits[merge, name], losses[merge, name]) for name in weighings
            }
            for merge in MERGES
        }

    def unpruned(self, model: str, said: int) -> dict[str, Any]:
        """What all others are compared with."""
        loaded, tokens = self.seen(model)
        hits, losses = [], []
        for at, sheet in zip(chunks(len(self.tasks)), self.sheets(said), strict=True):
            whole = torch.arange(tokens.shape[1]).expand(len(tokens[at]), -1)
            found = scoring.score(loaded, sheet, tokens[at], whole, whole.shape[1], "preserved")
            hits.append(found.answers == sheet.answer)
            losses.append(found.losses)
        return {"as kept": {"none": self._outcome(hits, losses)}}

    def _bias(self, weighing: Weighing, masses: Tensor, m: int, start: int) -> Tensor | None:
        if weighing.mass == "none":
            return None
        if weighing.shuffled:
            rng = np.random.default_rng((self.plan.seed, start))
            order = rng.permuted(np.tile(np.arange(masses.shape[1]), (len(masses), 1)), axis=1)
            masses = masses.gather(1, torch.from_numpy(order))
        return log_mass(masses, m, weighing.mass, weighing.alpha)

    def _outcome(self, hits: list[Tensor], losses: list[Tensor]) -> dict[str, Any]:
        right = torch.cat(hits).int().tolist()
        total = np.bincount(self.questions.image, weights=torch.cat(losses).numpy())
        return {"right": "".join(map(str, right)), "loss": [round(float(x), 3) for x in total]}


def key(model: str, said: int, method: str, keep: float) -> str:
    """A case's name."""
    return f"{model}, {said} before, {method}@{keep}"


def cases(world: World) -> Iterable[Case]:
    """Every model: alone with everything, then behind other text with the three main weighings."""
    of = quality.methods(quality.Plan(seed=world.plan.seed, random_seeds=1))
    for model in world.folders:
        for said in SAID:
            yield key(model, said, UNPRUNED, 1.0), partial(world.unpruned, model, said)
            weighings = AT_LENGTH_WEIGHINGS if said else tuple(WEIGHINGS)
            for name, choose in of.items():
                method = RANDOM if name.startswith(RANDOM) else name
                for keep in AT_LENGTH if said else KEEPS:
                    case = partial(world.run, model, said, keep, choose, weighings)
                    yield key(model, said, method, keep), case
