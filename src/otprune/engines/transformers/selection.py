"""Running the selector on the images of a call, batched by size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from otprune.checks import check_weights
from otprune.engines.common.among import reduce_among
from otprune.engines.common.selection import (
    NOTHING,
    Choice,
    reduce_checked,
    reduce_each_checked,
    timed,
)
from otprune.engines.transformers.callbacks import asked
from otprune.errors import WeightError
from otprune.keep import Auto, Budget
from otprune.measures.cells import Cells
from otprune.measures.mass import Mass, log_mass
from otprune.selectors import Cues, Reduction, Selector
from otprune.selectors.batches import in_groups

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
            cell are copies, and the choice is among the kept ones, see `reduce_among`.

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
        raise WeightError(f"weights(images)[{i}], {modality} in sequence {row}: {error}") from None


def log_masses(choice: Choice, m: int, mass: Mass, alpha: float) -> Tensor:
    """`(k,)` float32, the log mass of each kept token of m; 0 for an image kept whole."""
    made = choice.made
    if len(made.indices) == m:
        return torch.zeros(m, dtype=torch.float32)  # exactly 0, not 0 up to rounding
    # `masses` is computed when first read, and only "token" needs it.
    return log_mass(made.masses if mass == "token" else made.indices, m, mass, alpha)
