"""The preset: what the evidence says to use when nothing is known about a model."""

from __future__ import annotations

from typing import TypedDict

from otprune.keep import Keep
from otprune.measures.mass import Mass
from otprune.selectors.base import Selector
from otprune.selectors.dpp import DPPPrune


class Pruning(TypedDict):
    """Arguments of `otprune.prune`."""

    selector: Selector
    merge: bool
    mass: Mass
    alpha: float


def recommended(keep: Keep = 0.1) -> Pruning:
    """What to prune with by default: `with otprune.prune(model, **otprune.recommended(0.1)):`.

    Tokens that differ most (`DPPPrune`: greedy determinant of cosine similarities), each merged
    with the tokens that it stands for, and weighing as many of them in attention. Chosen on the
    validation images of `otprune bench mass`; docs/mass.md has the figures, of test images too.
    This is not the published OTPrune, which keeps other tokens (greedy log-determinant of second
    moments, `OTPrune(keep, gamma=0.01)`), as they are and without weights.

    Args:
        keep: as for any selector.

    Raises:
        KeepError: `keep` is no ratio, number or rule.
    """
    return Pruning(selector=DPPPrune(keep), merge=True, mass="token", alpha=1.0)
