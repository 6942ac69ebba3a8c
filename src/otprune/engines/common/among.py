"""Selection among the tokens that a selection inside the encoder kept; the others are copies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from otprune import keep as budget
from otprune.keep import Auto, Budget, Keep
from otprune.measures.cells import Cells
from otprune.selectors import Cues, Reduction, Selector, merging
from otprune.selectors.batches import Batch


def reduce_among(
    selector: Selector,
    sets: Sequence[Tensor],
    cells: Sequence[Cells],
    merge: bool,
    cues: Sequence[Cues],
) -> list[Reduction]:
    """Reduce tokens `(m, d)` of which only the kept ones of `cells` differ.

    Of m tokens `count(m)` are kept, chosen among those that the encoder kept, and at most those;
    ratios in a rule are shares of m, too. If `count(m)` is m, all m are kept. A kept token counts
    as the tokens of its cell do together, in the masses and for selectors that use weights.

    Args:
        sets: the tokens of each image.
        cells: of each, the plan of the selection inside the encoder.
        merge: as in `Selector.reduce`.
        cues: what is known of the tokens of each; weights of mean 1.
    """
    made: list[Reduction | None] = [None] * len(sets)
    groups: dict[Keep, list[int]] = {}
    total = sum(map(len, sets)), sum(len(plan.kept) for plan in cells)
    for i, (tokens, plan) in enumerate(zip(sets, cells, strict=True)):
        m = len(tokens)
        if isinstance(selector.keep, (float, int)) and selector.count(m) == m:
            every = torch.arange(m, device=tokens.device)
            made[i] = _reduction(tokens, every, cues[i], selector, merge)
        else:
            groups.setdefault(_keep_among(selector, m, len(plan.kept), total), []).append(i)
    for keep, places in groups.items():
        few = [sets[i][cells[i].kept] for i in places]
        counts = [cells[i].counts(cues[i].weights) for i in places]
        known = [
            _cues_of_kept(cues[i], cells[i], count) for i, count in zip(places, counts, strict=True)
        ]
        usable = [one.only(selector.uses) for one in known]
        found = _keeping(selector, keep).select_each(few, cues=usable)
        for i, tokens, cue, indices in zip(places, few, known, found, strict=True):
            shares = replace(cue, weights=cue.weights / cue.weights.mean())
            one = _reduction(tokens, indices, shares, selector, merge)
            made[i] = Reduction(cells[i].kept[indices], one.lazy_masses, one.features)
    return [one for one in made if one is not None]


def _cues_of_kept(cues: Cues, cells: Cells, weights: Tensor) -> Cues:
    """What is known of the kept tokens of `cells`; the question is that of all tokens."""
    of_each = replace(cues, question=None, weights=None).each(lambda x: x[cells.kept])
    return replace(of_each, question=cues.question, weights=weights)


def _reduction(
    tokens: Tensor, indices: Tensor, cues: Cues, selector: Selector, merge: bool
) -> Reduction:
    """One set `(m, d)` reduced to the tokens `indices`, `(k,)`; its weights have mean 1."""
    known = cues.each(lambda x: x[None].to(tokens.device))
    if known.weights is not None:
        known = replace(known, weights=known.weights.float())
    batch = Batch(tokens[None], known)
    return merging.reduction(batch, indices[None], selector, merge).unbind()[0]


def _keep_among(selector: Selector, m: int, kept: int, total: tuple[int, int]) -> Keep:
    """`keep` for a set of `kept` tokens that stand for m; `total`, the same of all sets."""
    rule = selector.keep
    if isinstance(rule, Auto):
        return replace(rule, max_keep=min(budget.count(rule.max_keep, m), kept))
    if isinstance(rule, Budget):
        return replace(rule, total=min(budget.count(rule.total, total[0]), total[1]))
    return min(selector.count(m), kept)


def _keeping(selector: Selector, keep: Keep) -> Selector:
    """The selector with another `keep`; its class may have a constructor of its own."""
    other = copy.copy(selector)
    object.__setattr__(other, "keep", keep)
    return other
