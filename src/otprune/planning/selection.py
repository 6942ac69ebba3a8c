"""What a selection costs: counted on random tokens, since it depends on the method's search."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from otprune.selectors import Selector
from otprune.selectors.cues import Cues

LARGEST = 1280  # tokens of a set on which a selection is run; larger sets are scaled up from it


@lru_cache(maxsize=256)
def selection_flops(selector: Selector, m: int, d: int, assigns: bool = False) -> tuple[int, bool]:
    """Operations of the matrix products of one selection, of m tokens of d features.

    The selection is run on random tokens. Lazy searches compute more or less on other tokens.

    Args:
        assigns: whether each token is assigned to a kept one besides, as merging and masses need.

    Returns:
        The number, and whether it was counted. False: estimated from fewer tokens, by the square of
        their number, which is how most methods grow.
    """
    k, run = selector.count(m), min(m, LARGEST)
    if k == m:
        return 0, True
    few = selector.count(run) if isinstance(selector.keep, float) else round(k * run / m)
    if run < m:
        selector = replace(selector, keep=max(few, 1))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(run, d, generator=generator) + torch.randn(d, generator=generator)
    cues = _cues(run, d, selector.needs, generator) if selector.needs else None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if assigns:
            selector.cells_each([tokens], cues=None if cues is None else [cues])
        else:
            selector.select(tokens, cues=cues)
    return round(counter.get_total_flops() * (m / run) ** 2), run == m


def _cues(m: int, d: int, names: Collection[str], generator: torch.Generator) -> Cues:
    place = torch.arange(m)
    every = {
        "weights": torch.rand(m, generator=generator),
        "saliency": torch.rand(m, generator=generator),
        "keys": torch.randn(m, 16, 64, generator=generator),
        "encoded": torch.randn(m, 1024, generator=generator),
        "question": torch.randn(16, d, generator=generator),
        "grid": torch.stack([torch.zeros_like(place), place // 32, place % 32], dim=1),
    }
    return Cues(**{name: every[name] for name in names})
