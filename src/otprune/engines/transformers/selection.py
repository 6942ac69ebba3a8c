"""Running the selector on the images of a call, batched by size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from otprune.checks import check_weights
from otprune.engines.common.selection import (
    Choice,
    reduce_checked,
    reduce_each_checked,
    timed,
)
from otprune.errors import WeightError
from otprune.keep import Auto, Budget
from otprune.measures.mass import Mass, log_mass
from otprune.selectors.batches import in_groups

if TYPE_CHECKING:
    from otprune.engines.transformers.encoded import VisualTokens
    from otprune.engines.transformers.settings import Weigh
    from otprune.selectors import Reduction, Selector


def choose(
    selector: Selector,
    images: Sequence[Tensor],
    rows: Sequence[int],
    merge: bool,
    weights: Sequence[Tensor | None] | None = None,
) -> list[Choice]:
    """Reduce the tokens `(m, d)` of each image; images of one size are one batch.

    If `keep` is a rule, the images of one sequence are reduced together, so that a `Budget` applies
    to each sequence separately. No gradient flows through the choice; kept features have theirs.

    Args:
        rows: index of each image's sequence in the batch.
        weights: `(m,)` for each image, or None for one whose tokens all count the same.

    Raises:
        SelectorError: the selector's indices are not strictly ascending, or not valid for an image.
    """
    ruled = isinstance(getattr(selector, "keep", None), (Auto, Budget))
    weighed = [None] * len(images) if weights is None else list(weights)

    def key(tokens: Tensor, row: int, weight: Tensor | None) -> object:
        return row if ruled else (tokens.shape, tokens.dtype, weight is None)

    def together(places: list[int]) -> list[Choice]:
        sets = [images[i] for i in places]
        ours = [weighed[i] for i in places]
        given = [w for w in ours if w is not None]

        def task() -> list[Reduction]:
            if ruled:
                return reduce_each_checked(selector, sets, merge, ours if given else None)
            if len(sets) == 1:
                return [reduce_checked(selector, sets[0], merge, ours[0])]
            stacked = torch.stack(given) if given else None
            return reduce_checked(selector, torch.stack(sets), merge, stacked).unbind()

        return timed(task, sets[0].device)

    return in_groups(map(key, images, rows, weighed), together)


def weights_of(weigh: Weigh, images: list[VisualTokens]) -> list[Tensor | None]:
    """The weights that a caller's function returns for the images; see `Settings.weights`.

    Args:
        images: of one call, in prompt order.

    Returns:
        `(m,)` float64 of mean 1 for each image, or None.

    Raises:
        WeightError: the function does not return one entry an image, or one does not fit its image.
    """
    made: Any = weigh(list(images))  # of its own, should the function sort or shorten it
    try:
        each = list(made)
    except TypeError:
        raise WeightError(
            f"weights(images) returned a {type(made).__name__}: expected a list, for each of "
            f"{len(images)} images one weight a token or None"
        ) from None
    if len(each) != len(images):
        raise WeightError(
            f"weights(images) returned {len(each)} entries for {len(images)} images: expected one "
            "an image, None for one whose tokens count alike"
        )
    return [_checked(i, w, image) for i, (w, image) in enumerate(zip(each, images, strict=True))]


def _checked(i: int, weights: Any, image: VisualTokens) -> Tensor | None:
    if weights is None:
        return None
    try:
        return check_weights(weights, (len(image.features),))
    except WeightError as error:
        where = f"weights(images)[{i}], {image.modality} in row {image.row}"
        raise WeightError(f"{where}: {error}") from None


def log_masses(choice: Choice, m: int, mass: Mass, alpha: float) -> Tensor:
    """`(k,)` float32, the log mass of each kept token of m; 0 for an image kept whole."""
    made = choice.made
    if len(made.indices) == m:
        return torch.zeros(m)  # exactly 0, not 0 up to rounding
    # `masses` is computed when first read, and only "token" needs it.
    return log_mass(made.masses if mass == "token" else made.indices, m, mass, alpha)
