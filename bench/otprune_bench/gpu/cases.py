"""All cases of the GPU bench, in the order in which they are run, and what each may cost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from otprune_bench.gpu import checks, costs, kernels, models, speeds
from otprune_bench.gpu.plan import Plan
from otprune_bench.runs.cases import Case


def cases(plan: Plan) -> Iterator[Case]:
    """The card, then part by part; what takes longest and says least comes last."""
    yield "card", partial(speeds.card, plan)
    yield from checks.cases(plan)
    yield from models.checks(plan)
    yield from speeds.cases(plan)
    yield from models.cases(plan)
    yield from kernels.cases(plan)
    yield from checks.late_cases(plan)


def expected_seconds(plan: Plan) -> dict[str, float]:
    """Declared seconds of every case, see `costs`."""
    table = costs.expected(plan, speeds.CONTENDERS)
    return {key: costs.seconds_of(key, table) for key, _ in cases(plan)}
