"""What selection costs, from a thumbnail to an hour of video.

All is measured beside `otprune_bench.timing.transcription`, the published algorithm written down
plainly. The contenders of a case take turns, so that what else the machine does affects all alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from otprune.demo import SAMPLES_DIR
from otprune.encoders import vit_s
from otprune.keep import count
from otprune.measures.logdet import kernel, scaled_gamma
from otprune.numerics.normalize import unit_columns
from otprune.selectors import METHODS
from otprune_bench.methods import TOKENS_ALONE
from otprune_bench.runs.cases import Case
from otprune_bench.speed.models import measure
from otprune_bench.speed.plan import (
    BUSY,
    GRAM,
    OTHERS,
    QUIET,
    REAL_KEEP,
    TRANSPORT,
    Plan,
    Point,
    Sweep,
    key,
    real_key,
)
from otprune_bench.timing.busy import busy_processes
from otprune_bench.timing.memory import peak_bytes
from otprune_bench.timing.race import (
    EXACT,
    GAMMA,
    SKETCHED,
    Runs,
    contenders,
    make_tokens,
    paths,
    race,
)


def cases(plan: Plan) -> Iterator[Case]:
    """Targets first, then the sweeps point by point, then the models.

    The batch comes before large shapes: a process that has given back so much memory gets fresh
    pages afterwards where it had its own before, and pays for each.
    """
    yield key("target", *plan.batch), partial(_batch, plan)
    for m, d, k in plan.targets:
        yield key("target", m, d, k), partial(_target, plan, m, d, k)
    for one in plan.busy:
        yield key("busy", *one), partial(_busy, plan, one)
    for m, d, k in plan.many:
        yield key("many", m, d, k), partial(_many, plan, m, d, k)
    for size in plan.real:
        yield real_key(size), partial(_real, size)
    for name, sweep in plan.sweeps.items():
        for point in sweep.points:
            yield f"{name}/{point.name}", partial(_point, plan, sweep, point)
    for model in plan.models:
        yield f"model/{model.shape.name}", partial(measure, model, plan.repeats, plan.seed)


def _measured(plan: Plan, runs: Runs) -> dict[str, Any]:
    return {
        "seconds": race(runs, plan.repeats, plan.patience),
        "peak_bytes": {name: peak_bytes(function) for name, function in runs.items()},
        "load": os.getloadavg()[0],
    }


def _target(plan: Plan, m: int, d: int, k: int) -> dict[str, Any]:
    tokens = make_tokens(1, m, d, plan.seed)
    runs = contenders(tokens, k)
    columns = unit_columns(tokens)[0]
    if m <= OTHERS:
        others = {name: cls(k) for name, cls in TOKENS_ALONE.items() if name != "otprune"}
        runs |= {name: partial(one.select, tokens) for name, one in others.items()}
    runs[GRAM] = lambda: columns @ columns.mT
    found = _measured(plan, runs)
    found["objectives"] = _objectives(tokens, k)
    return found


def _batch(plan: Plan) -> dict[str, Any]:
    batch, m, d, k = plan.batch
    tokens = make_tokens(batch, m, d, plan.seed)
    columns = unit_columns(tokens)
    runs = contenders(tokens, k)
    runs[GRAM] = lambda: [one @ one.mT for one in columns]
    return _measured(plan, runs)


def _busy(plan: Plan, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    """The paths to the published objective, alone and beside two processes that spin."""
    batch, m, d, k = shape
    runs = contenders(make_tokens(batch, m, d, plan.seed), k)
    found: dict[str, Any] = {}
    for name, others in ((QUIET, 0), (BUSY, 2)):
        with busy_processes(others):
            seconds = race(runs, plan.repeats, plan.patience)
        found[name] = {"seconds": seconds, "load": os.getloadavg()[0]}
    return found


def _many(plan: Plan, m: int, d: int, k: int) -> dict[str, Any]:
    tokens = make_tokens(1, m, d, plan.seed)
    names = ("otprune", TRANSPORT, "divprune")
    runs: Runs = {name: partial(METHODS[name](k).select, tokens) for name in names}
    return {"seconds": race(runs, repeats=3, patience=0.0)}


def _real(size: int) -> dict[str, Any]:
    """What the sketched path's choice is worth, on a pretrained encoder's tokens of the samples."""
    encoder = vit_s.load()
    images = [encoder.tokens(Image.open(path), size) for path in sorted(SAMPLES_DIR.glob("*.jpg"))]
    m, d = images[0].shape
    k = count(REAL_KEEP, m)
    gammas = {"0.01": GAMMA, "scaled": scaled_gamma(m, d)}
    shares = {
        name: [_objectives(x[None], k, gamma)[SKETCHED] for x in images]
        for name, gamma in gammas.items()
    }
    return {"m": m, "d": d, "k": k, "shares": shares}


def _point(plan: Plan, sweep: Sweep, point: Point) -> dict[str, Any]:
    tokens = make_tokens(*point[:3], plan.seed).to(getattr(torch, point.dtype))
    runs = contenders(tokens, point.k)
    runs = {name: f for name, f in runs.items() if point.m <= sweep.most.get(name, point.m)}
    with _threads(point.threads):
        return _measured(plan, runs)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _objectives(tokens: Tensor, k: int, gamma: float = GAMMA) -> dict[str, float]:
    """Each path's value of the published objective, relative to the exact path's."""
    K = kernel(tokens.double(), gamma)
    values = {}
    for name, selector in paths(k, gamma).items():
        chosen = selector.select(tokens)[0]
        block = K.left[0, chosen] @ K.right[0, chosen].mT
        block.diagonal().add_(1)
        values[name] = float(torch.logdet(block))
    return {name: value / values[EXACT] for name, value in values.items()}
