"""How one image is pruned, as a row of int64 that travels with it from the processor to the worker.

The row is all that a worker needs: images of one batch may come from requests with different
settings. The method and its settings are written as JSON, eight bytes to a number. JSON writes a
float with as many digits as give the same float back, so nothing is lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from otprune.engines.common.stage import EncoderStage
from otprune.measures.mass import Mass
from otprune.selectors import METHODS, Selector
from otprune.selectors.named import settings_of

_WORD = 8  # bytes of an int64


@dataclass(frozen=True)
class Asked:
    """What is asked of one image or video, whatever its size.

    selector: `keep` is a ratio or a number of tokens.
    merge: kept tokens become the mean of the tokens that they stand for.
    mass, alpha: how much a kept token counts in attention, as for `otprune.prune`.
    stage: selection inside the vision encoder, by `DPPPrune`; None for none.
    question: ids of what is asked, for a method that hears it; None for all others.
    """

    selector: Selector
    merge: bool = False
    mass: Mass = "none"
    alpha: float = 1.0
    stage: EncoderStage | None = None
    question: tuple[int, ...] | None = None


class Plan(NamedTuple):
    """How one image or video is pruned.

    sets: the sets of tokens in it; each is pruned for itself.
    m: tokens of a set.
    asked: its `selector.keep` is the number of tokens that stay of a set.
    """

    sets: int
    m: int
    asked: Asked

    @property
    def k(self) -> int:
        """Tokens that stay of a set."""
        return self.asked.selector.count(self.m)


def plan(asked: Asked, sets: int, m: int, most: int | None = None) -> Plan:
    """The plan for an image of `sets` times `m` tokens, without the question if all m are kept.

    Args:
        most: how many tokens of a set differ behind the stage, of which no more are kept, unless
            all m are.
    """
    selector = asked.selector
    k = selector.count(m)
    if k == m:
        asked = replace(asked, question=None)
    elif most is not None:
        k = min(k, most)
    return Plan(sets, m, replace(asked, selector=replace(selector, keep=k)))


def method_text(asked: Asked) -> str:
    """The method, its settings without `keep`, merge, mass and alpha, as JSON."""
    selector = asked.selector
    own = {name: getattr(selector, name) for name in settings_of(selector.name)}
    return json.dumps([selector.name, own, asked.merge, asked.mass, asked.alpha])


def stage_text(stage: EncoderStage | None) -> str:
    """`keep` and `after` of a stage by `DPPPrune`, or null, as JSON."""
    return json.dumps(None if stage is None else [stage.keep, stage.after])


def write(image: Plan) -> Tensor:
    """`(n,)` int64, where n depends on the length of the settings."""
    asked = image.asked
    question = json.dumps(asked.question)
    text = words(f"[{method_text(asked)}, {stage_text(asked.stage)}, {question}]")
    return torch.cat([torch.tensor([image.sets, image.m, image.k]), text])


def read(row: Tensor) -> Plan:
    """The plan that `write` wrote."""
    sets, m, k = row[:3].tolist()
    (name, own, merge, mass, alpha), stage, question = json.loads(row[3:].cpu().numpy().tobytes())
    stage = stage and EncoderStage(*stage)
    question = None if question is None else tuple(question)
    return Plan(sets, m, Asked(METHODS[name](k, **own), merge, mass, alpha, stage, question))


def words(text: str) -> Tensor:
    """Text as int64, eight bytes to a number, with spaces behind it."""
    written = text.encode()
    return torch.frombuffer(bytearray(written + b" " * (-len(written) % _WORD)), dtype=torch.int64)
