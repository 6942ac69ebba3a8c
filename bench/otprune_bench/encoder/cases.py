"""What a selection inside the encoder costs in features and answers, and what it saves in time."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from otprune_bench.encoder.answers import Evaluation
from otprune_bench.encoder.features import Photographs
from otprune_bench.encoder.plan import (
    ONE,
    SPLITS,
    Plan,
    Timed,
    answers_key,
    chooser,
    features_key,
    time_key,
)
from otprune_bench.encoder.times import Call, Rounds
from otprune_bench.methods import UNPRUNED
from otprune_bench.runs.cases import Case


def cases(
    plan: Plan, photographs: Photographs, evaluations: dict[str, Evaluation]
) -> Iterable[Case]:
    """Answers, features, then times."""
    for split, evaluation in evaluations.items():
        yield answers_key(split, UNPRUNED), evaluation.unpruned
        yield answers_key(split, ONE), evaluation.one
        for stage in dict(plan.answers)[split]:
            case = partial(evaluation.staged, stage, chooser(stage.method, plan.seed))
            yield answers_key(split, stage), case
    for size, stages in plan.features:
        for stage in stages:
            case = partial(photographs.measured, size, stage, chooser(stage.method, plan.seed))
            yield features_key(size, stage), case
    calls = _OneCall(plan.seed)
    for timed in plan.timed:
        rounds = Rounds(plan, timed)
        for number in range(1, timed.rounds + 1):
            yield time_key(timed, number), partial(rounds.round, partial(calls, timed), number)


def evaluations_of(plan: Plan, folder: Path) -> dict[str, Evaluation]:
    """The tasks of both splits."""
    return {split: Evaluation(plan, split, folder) for split in SPLITS}


class _OneCall:
    """Holds one model at a time: built for its first round, freed before the next is built."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._name = ""
        self._call: Call | None = None

    def __call__(self, timed: Timed) -> Call:
        if self._call is None or self._name != timed.name:
            self._call = None
            self._name, self._call = timed.name, Call(timed, self._seed)
        return self._call
