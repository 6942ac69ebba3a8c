"""The recommended preset for a model about which nothing is known."""

from __future__ import annotations

from typing import TypedDict

from otprune.keep import Keep
from otprune.measures.mass import Distance, Mass
from otprune.selectors.base import Selector
from otprune.selectors.dpp import DPPPrune


class Pruning(TypedDict):
    """Arguments of `otprune.prune`."""

    selector: Selector
    merge: bool
    mass: Mass
    alpha: float
    distance: Distance


def recommended(keep: Keep = 0.1) -> Pruning:
    """Recommended arguments: `with otprune.prune(model, **otprune.recommended(0.1)):`.

    `DPPPrune` chooses dissimilar tokens (greedy determinant of cosine similarities). Each is merged
    with the tokens that it stands for, its mass in attention is their number, and attention has the
    distance term. Selector, merging and mass were chosen on the validation images of `otprune bench
    mass`. The distance term rests on published figures; it does not hurt in `otprune bench
    distance`. docs/mass.md has all figures. Models that take no distance term (flash attention
    among them) go without it. The preset is not the published OTPrune, which keeps other tokens
    (greedy log-determinant of second moments, `OTPrune(keep, gamma=0.01)`) without merging and
    mass.

    Args:
        keep: as for any selector.

    Raises:
        KeepError: `keep` is no ratio, number or rule.
    """
    return Pruning(selector=DPPPrune(keep), merge=True, mass="token", alpha=1.0, distance="auto")
