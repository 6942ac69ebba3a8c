"""One case a clip: every method on it, at equal tokens."""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from otprune.streaming import DTD, FixedCameraSelector, StaticPatches, StreamSelector
from otprune_bench.robot import plan as names
from otprune_bench.robot.choices import Choice, equal, pushed
from otprune_bench.robot.plan import Plan, key
from otprune_bench.robot.scores import known_looks, score, whereabouts
from otprune_bench.robot.sources import Source, made, recorded
from otprune_bench.runs.cases import Case


def cases(plan: Plan, data: Path) -> Iterator[Case]:
    """The video of stickers, then every episode at every noise, then the real clips.

    Those whose file is not in `data` are left out, with a line on stderr.
    """
    yield names.MADE, functools.partial(_compare, plan, functools.partial(made, plan))
    for name in there(plan.episodes, data):
        for noise in plan.noises:
            read = functools.partial(recorded, data / f"{name}.npz", noise, plan.seed)
            last = noise == plan.noises[-1]
            at = plan if last else replace(plan, tokens=(names.RATE,))
            shown = name == names.PICTURE and last
            yield key(name, noise), functools.partial(_compare, at, read, shown, own=last)
    for name in there(plan.clips, data):
        read = functools.partial(recorded, data / f"{name}.npz", 0.0, plan.seed)
        yield key(name), functools.partial(_compare, plan, read)


def there(wanted: tuple[str, ...], data: Path) -> list[str]:
    """Those whose file is in `data`."""
    found = [name for name in wanted if (data / f"{name}.npz").exists()]
    for name in wanted:
        if name not in found:
            print(
                f"{name} is left out: {data / name}.npz is not there; `make bench-robot` makes it",
                file=sys.stderr,
            )
    return found


def _compare(
    plan: Plan, read: Callable[[], Source], shown: bool = False, own: bool = False
) -> dict[str, Any]:
    source = read()
    t, m, _ = source.tokens.shape
    stream = pushed(StreamSelector(names.RATE), source, names.RATE)
    every = Choice([torch.arange(m)] * t, [0.0] * t, m)
    alone = {
        f"{names.STREAM}, rate {names.RATE}": stream,
        f"{names.FIXED}, rate {names.RATE}": pushed(
            FixedCameraSelector(names.RATE), source, names.RATE
        ),
        f"{names.DTD}, as published": pushed(DTD(), source, 0.25),
        f"{names.STATIC}, as published": pushed(StaticPatches(), source, 0.996),
        names.ALL: every,
    }
    result: dict[str, Any] = {
        "alone": {name: score(source, choice, plan.every) for name, choice in alone.items()},
        "encoder_milliseconds": 1e3 * statistics.median(source.encoder),
        "events": [event.frame for event in source.events],
        "known looks": known_looks(source, stream.kept, plan.every),
        "base": None
        if source.owner is None
        else {str(label): float((source.owner == label).mean()) for label in (1, 2)},
    }
    numbers = {str(n): float(n) for n in plan.tokens}
    if own:
        numbers[names.OWN] = stream.mean
    for point, tokens in numbers.items():
        methods = names.AS_OWN if point == names.OWN else names.METHODS
        chosen = {name: equal(name, source, tokens) for name in methods}
        result[point] = {name: score(source, c, plan.every) for name, c in chosen.items()}
        if point == str(names.RATE):
            each = {names.STREAM: stream, **chosen}
            result["per frame"] = {name: [len(i) for i in c.kept] for name, c in each.items()}
            if shown:
                result["whereabouts"] = {
                    name: whereabouts(source, c.kept) for name, c in each.items()
                }
                result["kept"] = {name: [i.tolist() for i in c.kept] for name, c in each.items()}
    return result
