"""The methods that the benches compare, under the names of their tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from otprune.selectors import METHODS, OTPrune, RandomPrune, Selector

UNPRUNED, PUBLISHED, RANDOM = "unpruned", "otprune, gamma 0.01", "random"
# Methods that need nothing but the tokens.
TOKENS_ALONE = {name: method for name, method in METHODS.items() if not method.needs}
# In the order of tables and plots; random last, as the floor.
NAMES = (PUBLISHED, *(name for name in TOKENS_ALONE if name != RANDOM), RANDOM)

# The selector for a keep ratio and the number of an image.
Choose = Callable[[float, int], Selector]


def methods(seed: int, random_seeds: int) -> dict[str, Choose]:
    """Name to selector; each seed of random pruning is a method: "random 0", "random 1", ...

    A random seed draws anew for every image: `RandomPrune` with one seed keeps the same positions
    in all images, and five such patterns would say little about randomness.
    """
    found: dict[str, Choose] = {PUBLISHED: partial(_fixed, partial(OTPrune, gamma=0.01))}
    for name, method in TOKENS_ALONE.items():
        if name != RANDOM:
            found[name] = partial(_fixed, method)
    for i in range(random_seeds):
        found[f"{RANDOM} {i}"] = partial(_drawn, (seed * random_seeds + i) * 1_000_003)
    return found


def _fixed(method: Callable[[float], Selector], keep: float, image: int) -> Selector:
    return method(keep)


def _drawn(first: int, keep: float, image: int) -> Selector:
    return RandomPrune(keep, seed=first + image)
