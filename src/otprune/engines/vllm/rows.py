"""How one image is pruned, as a row of int64 that travels with it from the processor to the worker.

The row is all that a worker needs: images of one batch may come from requests with different
settings. The method and its settings are written as JSON, eight bytes to a number. JSON writes a
float with as many digits as give the same float back, so nothing is lost.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from otprune.engines.common.stage import EncoderStage
from otprune.measures.mass import Mass
from otprune.selectors import METHODS, Selector
from otprune.selectors.named import settings_of

_WORD = 8  # bytes of an int64


class Plan(NamedTuple):
    """How one image or video is pruned.

    sets: the sets of tokens in it; each is pruned for itself.
    m: tokens of a set.
    selector: its `keep` is the number of tokens that stay of a set.
    merge: kept tokens become the mean of the tokens that they stand for.
    mass, alpha: how much a kept token counts in attention, as for `otprune.prune`.
    stage: selection inside the vision encoder, by `DPPPrune`; None for none.
    question: ids of what is asked, for a method that hears it; None for all others.
    """

    sets: int
    m: int
    selector: Selector
    merge: bool
    mass: Mass = "none"
    alpha: float = 1.0
    stage: EncoderStage | None = None
    question: tuple[int, ...] | None = None

    @property
    def k(self) -> int:
        """Tokens that stay of a set."""
        return self.selector.count(self.m)


def plan(
    selector: Selector,
    merge: bool,
    sets: int,
    m: int,
    mass: Mass = "none",
    alpha: float = 1.0,
    stage: EncoderStage | None = None,
    most: int | None = None,
    question: tuple[int, ...] | None = None,
) -> Plan:
    """The plan for an image of `sets` times `m` tokens; `selector.keep` may be a ratio.

    Args:
        most: how many tokens of a set differ behind the stage, of which no more are kept, unless
            all m are.
        question: see `Plan`; no part of the plan if all m are kept.
    """
    k = selector.count(m)
    if most is not None and k < m:
        k = min(k, most)
    asked = None if k == m else question
    return Plan(sets, m, replace(selector, keep=k), merge, mass, alpha, stage, asked)


def method_text(selector: Selector, merge: bool, mass: Mass = "none", alpha: float = 1.0) -> str:
    """The method, its settings without `keep`, merge, mass and alpha, as JSON."""
    own = {name: getattr(selector, name) for name in settings_of(selector.name)}
    return json.dumps([selector.name, own, merge, mass, alpha])


def stage_text(stage: EncoderStage | None) -> str:
    """`keep` and `after` of a stage by `DPPPrune`, or null, as JSON."""
    return json.dumps(None if stage is None else [stage.keep, stage.after])


def write(image: Plan) -> Tensor:
    """`(n,)` int64, where n depends on the length of the settings."""
    method = method_text(image.selector, image.merge, image.mass, image.alpha)
    text = words(f"[{method}, {stage_text(image.stage)}, {json.dumps(image.question)}]")
    return torch.cat([torch.tensor([image.sets, image.m, image.k]), text])


def read(row: Tensor) -> Plan:
    """The plan that `write` wrote."""
    sets, m, k = row[:3].tolist()
    (name, own, merge, mass, alpha), stage, asked = json.loads(row[3:].cpu().numpy().tobytes())
    stage = stage and EncoderStage(*stage)
    question = None if asked is None else tuple(asked)
    return Plan(sets, m, METHODS[name](k, **own), merge, mass, alpha, stage, question)


def words(text: str) -> Tensor:
    """Text as int64, eight bytes to a number, with spaces behind it."""
    written = text.encode()
    return torch.frombuffer(bytearray(written + b" " * (-len(written) % _WORD)), dtype=torch.int64)
