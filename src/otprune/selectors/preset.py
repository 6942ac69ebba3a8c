"""The recommended preset for a model about which nothing is known."""

from __future__ import annotations

from typing import TypedDict

from otprune.keep import Keep
from otprune.measures.mass import Distance, Mass
from otprune.selectors.base import Selector
from otprune.selectors.simplex import SimplexPrune
from otprune.selectors.transport import TransportPrune


class Pruning(TypedDict):
    """Arguments of `otprune.prune`."""

    selector: Selector
    merge: bool
    mass: Mass
    alpha: float
    distance: Distance


def recommended(keep: Keep = 0.1, question: float = 0.0) -> Pruning:
    """Recommended arguments: `with otprune.prune(model, **otprune.recommended(0.1)):`.

    `SimplexPrune` chooses tokens of different directions. Each is merged with the tokens that it
    stands for, its mass in attention is their number, and attention has the distance term. The
    choice depends on the image alone, so that one image has one prefix in a cache.

    With a share for the question, `recommended(0.03, question=0.9)`, `TransportPrune` covers what
    the question's words point at, and kept tokens have their mass without merging. Much better
    where few tokens are kept; another question about an image is another prefix.

    Selector, merging and mass were chosen on the validation images of `otprune bench mass` and
    `quality`. The distance term rests on published figures; it does not hurt in `otprune bench
    distance`. docs/mass.md and docs/question.md have all figures. Models that take no distance term
    (flash attention among them) go without it. The preset is not the published OTPrune, which keeps
    other tokens (greedy log-determinant of second moments, `OTPrune(keep, gamma=0.01)`) without
    merging and mass.

    Args:
        keep: as for any selector.
        question: share of the question, from 0 (it is not heard) to 1; see `TransportPrune`.

    Raises:
        KeepError: `keep` is no ratio, number or rule.
        OTPruneError: `question` is no share.
    """
    heard = TransportPrune(keep, question=question)
    return Pruning(
        selector=heard if heard.question else SimplexPrune(keep),
        merge=not heard.question,
        mass="token",
        alpha=1.0,
        distance="auto",
    )
