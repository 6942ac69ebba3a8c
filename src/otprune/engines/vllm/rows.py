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
    """

    sets: int
    m: int
    selector: Selector
    merge: bool
    mass: Mass = "none"
    alpha: float = 1.0

    @property
    def k(self) -> int:
        """Tokens that stay of a set."""
        return self.selector.count(self.m)


def plan(
    selector: Selector, merge: bool, sets: int, m: int, mass: Mass = "none", alpha: float = 1.0
) -> Plan:
    """The plan for an image of `sets` times `m` tokens; `selector.keep` may be a ratio."""
    return Plan(sets, m, replace(selector, keep=selector.count(m)), merge, mass, alpha)


def method_text(selector: Selector, merge: bool, mass: Mass = "none", alpha: float = 1.0) -> str:
    """The method, its settings without `keep`, merge, mass and alpha, as JSON."""
    own = {name: getattr(selector, name) for name in settings_of(selector.name)}
    return json.dumps([selector.name, own, merge, mass, alpha])


def write(image: Plan) -> Tensor:
    """`(n,)` int64, where n depends on the length of the settings."""
    text = method_text(image.selector, image.merge, image.mass, image.alpha).encode()
    text += b" " * (-len(text) % _WORD)
    words = torch.frombuffer(bytearray(text), dtype=torch.int64)
    return torch.cat([torch.tensor([image.sets, image.m, image.k]), words])


def read(row: Tensor) -> Plan:
    """The plan that `write` wrote."""
    sets, m, k = row[:3].tolist()
    name, own, merge, mass, alpha = json.loads(row[3:].cpu().numpy().tobytes())
    return Plan(sets, m, METHODS[name](k, **own), merge, mass, alpha)
