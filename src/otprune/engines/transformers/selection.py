"""Running the selector on the images of a call, batched by size."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from otprune import keep as budget
from otprune.checks import check_weights
from otprune.engines.common.selection import (
    NOTHING,
    Choice,
    reduce_checked,
    reduce_each_checked,
    timed,
)
from otprune.engines.transformers.callbacks import asked
from otprune.errors import WeightError
from otprune.keep import Auto, Budget, Keep
from otprune.measures.cells import Cells
from otprune.measures.mass import Mass, log_mass
from otprune.selectors import Cues, Reduction, Selector, merging
from otprune.selectors.batches import Batch, in_groups

if TYPE_CHECKING:
    from otprune.engines.transformers.encoded import VisualTokens
    from otprune.engines.transformers.settings import Weigh


def choose(
    selector: Selector,
    images: Sequence[Tensor],
    rows: Sequence[int],
    merge: bool,
    cues: Sequence[Cues] | None = None,
    cells: Sequence[Cells | None] | None = None,
) -> list[Choice]:
    """Reduce the tokens `(m, d)` of each image; images of one size are one batch.

    If `keep` is a rule, the images of one sequence are reduced together, so that a `Budget` applies
    to each sequence separately. No gradient flows through the choice; kept features have theirs.

    Args:
        rows: index of each image's sequence in the batch.
        cues: what is known of each image's tokens, for a set of its own (`Cues`).
        cells: for each image the plan of a selection inside the encoder, or None. Tokens of one
            cell are copies. Of m tokens `count(m)` are kept, chosen among those that the encoder
            kept, and at most those; ratios in a rule are shares of m, too. If `count(m)` is m, all
            m are kept.

    Raises:
        SelectorError: the selector's indices are not strictly ascending, or not valid for an image.
    """
    ruled = isinstance(getattr(selector, "keep", None), (Auto, Budget))
    known = [NOTHING] * len(images) if cues is None else list(cues)
    plans = [None] * len(images) if cells is None else list(cells)

    def key(tokens: Tensor, row: int, cue: Cues, plan: Cells | None) -> object:
        if ruled:
            return row
        sizes = tuple((name, getattr(cue, name).shape) for name in sorted(cue.names))
        return plan is None, tokens.shape, tokens.dtype, sizes

    def together(places: list[int]) -> list[Choice]:
        sets = [images[i] for i in places]
        ours = [known[i] for i in places]
        if any(plans[i] for i in places) and isinstance(selector, Selector):
            # One rule covers all images of a sequence, also those whose plan is not known.
            there = [plans[i] or Cells.whole(len(images[i]), images[i].device) for i in places]
            return timed(lambda: reduce_among(selector, sets, there, merge, ours), sets[0].device)

        def task() -> list[Reduction]:
            if ruled:
                return reduce_each_checked(selector, sets, merge, ours)
            if len(sets) == 1:
                return [reduce_checked(selector, sets[0], merge, ours[0])]
            joined = Cues.joined([one.each(lambda x: x.unsqueeze(0)) for one in ours])
            return reduce_checked(selector, torch.stack(sets), merge, joined).unbind()

        return timed(task, sets[0].device)

    return in_groups(map(key, images, rows, known, plans), together)


def reduce_among(
    selector: Selector,
    sets: Sequence[Tensor],
    cells: Sequence[Cells],
    merge: bool,
    cues: Sequence[Cues],
) -> list[Reduction]:
    """Reduce tokens `(m, d)` of which only the kept ones of `cells` differ; see `choose`.

    A kept token counts as the tokens of its cell do together, in the masses and for selectors that
    use weights.
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


def weights_of(weigh: Weigh, images: list[VisualTokens]) -> list[Tensor | None]:
    """The weights that a caller's function returns for the images; see `Settings.weights`.

    Args:
        images: of one call, in prompt order; the function may change them.

    Returns:
        `(m,)` float64 of mean 1 for each image, or None.

    Raises:
        UnsupportedError, WeightError: as `asked`; WeightError also for weights that do not fit.
    """
    sizes = [(image.modality, image.row, len(image.features)) for image in images]
    return [
        _checked(i, w, *size)
        for i, (w, size) in enumerate(zip(asked(weigh, images, "weights"), sizes, strict=True))
    ]


def _checked(i: int, weights: Any, modality: str, row: int, m: int) -> Tensor | None:
    if weights is None:
        return None
    try:
        return check_weights(weights, (m,))
    except WeightError as error:
        raise WeightError(f"weights(images)[{i}], {modality} in row {row}: {error}") from None


def log_masses(choice: Choice, m: int, mass: Mass, alpha: float) -> Tensor:
    """`(k,)` float32, the log mass of each kept token of m; 0 for an image kept whole."""
    made = choice.made
    if len(made.indices) == m:
        return torch.zeros(m, dtype=torch.float32)  # exactly 0, not 0 up to rounding
    # `masses` is computed when first read, and only "token" needs it.
    return log_mass(made.masses if mass == "token" else made.indices, m, mass, alpha)
