"""Asking the selector, once for all images where it can be."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from otprune.keep import Auto, Budget
from otprune.measures.mass import Mass, log_mass
from otprune.selectors.picks import check_kept

if TYPE_CHECKING:
    from otprune.selectors import Reduction, Selector


@dataclass(frozen=True)
class Choice:
    """What a selector made of one image, and how long it took."""

    made: Reduction
    seconds: float

    def log_masses(self, m: int, mass: Mass, alpha: float) -> Tensor:
        """`(k,)` float32, the log mass of each kept token of m; 0 for an image kept whole."""
        made = self.made
        if len(made.indices) == m:
            return torch.zeros(m)  # each stands for itself, to the last bit
        # Who belongs to whom is worked out only where it matters.
        return log_mass(made.masses if mass == "token" else made.indices, m, mass, alpha)


def choose(selector: Selector, images: list[Tensor], rows: list[int], merge: bool) -> list[Choice]:
    """Reduce each image's tokens, `(m, d)`; those of one size in one batch.

    Where `keep` is a rule, the images of one prompt are reduced together, so that a `Budget` is
    that prompt's own, whatever it shares a batch with. Which tokens are kept takes no part in the
    gradient; their features keep theirs.

    Args:
        rows: row of the batch that each image stands in.

    Raises:
        SelectorError: the selector's indices are not strictly ascending places of an image.
    """
    ruled = isinstance(getattr(selector, "keep", None), (Auto, Budget))
    groups: dict[object, list[int]] = {}
    for i, (tokens, row) in enumerate(zip(images, rows, strict=True)):
        groups.setdefault(row if ruled else (tokens.shape, tokens.dtype), []).append(i)
    choices: dict[int, Choice] = {}
    for places in groups.values():
        made, seconds = _timed(selector, [images[i] for i in places], ruled, merge)
        share = seconds / len(places)
        choices |= {i: Choice(one, share) for i, one in zip(places, made, strict=True)}
    for i, choice in choices.items():
        check_kept(type(selector), choice.made.indices, len(images[i]))
    return [choices[i] for i in range(len(images))]


def _timed(
    selector: Selector, sets: list[Tensor], ruled: bool, merge: bool
) -> tuple[list[Reduction], float]:
    if sets[0].is_cuda:
        torch.cuda.synchronize(sets[0].device)
    start = time.perf_counter()
    if ruled:
        made = selector.reduce_each(sets, merge=merge)
    elif len(sets) > 1:
        made = selector.reduce(torch.stack(sets), merge=merge).unbind()
    else:
        made = [selector.reduce(sets[0], merge=merge)]
    if sets[0].is_cuda:
        torch.cuda.synchronize(sets[0].device)
    return made, time.perf_counter() - start
