"""What is kept of all images of one encoder run, the same on every rank."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from otprune.engines.common.among import reduce_among
from otprune.engines.common.selection import NOTHING, reduce_checked, timed_call
from otprune.engines.vllm.rows import Plan
from otprune.errors import OTPruneError
from otprune.measures.cells import Cells
from otprune.measures.mass import log_mass
from otprune.selectors import Cues, Reduction, Selector
from otprune.selectors.batches import in_groups

logger = logging.getLogger("vllm.otprune")


@dataclass(frozen=True)
class Kept:
    """What is kept of one image, k tokens of each of its sets.

    indices: `(sets * k,)` places, each in the set that the token is of.
    rows: `(sets * k, d)` features.
    log_mass: `(sets * k,)` float32, what is added to attention logits; 0 where a set is whole.
    """

    indices: Tensor
    rows: Tensor
    log_mass: Tensor


@torch.no_grad()
def choose(
    images: list[Tensor],
    plans: list[Plan],
    width: int | None = None,
    agree: Callable[[Tensor], Tensor] = lambda x: x,
    cells: list[list[Cells] | None] | None = None,
    questions: list[Tensor | None] | None = None,
    record: Callable[[float, int], None] | None = None,
) -> list[Kept]:
    """What is kept of each image; images with equal plans are selected in one batch.

    Args:
        images: `(sets * m, d)` each.
        plans: one for each image.
        width: number of leading features to select and merge by, None for all; the others
            (deepstack levels) follow the kept tokens.
        agree: maps this rank's choice to that of rank 0.
        cells: of each image the plan of each of its sets by a selection inside the encoder. Tokens
            of one cell are copies, and the choice is among the kept ones, if there are enough. None
            for an image of which that is not known.
        questions: `(n, d)` the embedded text tokens of each plan's question, None without one.
        record: gets the seconds of each batch's selection and its number of images. To measure
            them, a GPU is waited for.

    Raises:
        OTPruneError: an image has another number of tokens than its placeholders were counted
            from.
    """
    for image, plan in zip(images, plans, strict=True):
        counted = plan.sets * plan.m
        if len(image) != counted:
            raise OTPruneError(
                f"the encoder made {len(image)} tokens of an image that the processor counted "
                f"as {counted}: this checkpoint's processor and encoder disagree, serve it unpruned"
            )

    known = [None] * len(images) if cells is None else cells
    among = [
        one if one is not None and all(plan.k <= len(each.kept) for each in one) else None
        for one, plan in zip(known, plans, strict=True)
    ]

    def together(places: list[int]) -> list[Kept]:
        """Images of one plan, in one batch."""
        plan, some = plans[places[0]], [images[i] for i in places]
        sets, m, how = plan
        if plan.k == m:
            every = torch.arange(m, device=some[0].device).repeat(sets)
            return [Kept(every, x, torch.zeros(len(x), device=x.device)) for x in some]
        full = torch.stack(some).unflatten(1, (sets, m)).flatten(0, 1)
        tokens = full[..., :width]
        finite = tokens.isfinite()
        if not bool(finite.all()):  # an error here would stop the server
            logger.warning("otprune: the encoder made NaN or Inf; the selection takes them as 0")
            tokens = torch.where(finite, tokens, 0.0)
        asked = None if questions is None else questions[places[0]]  # the same for all
        cues = NOTHING if asked is None else Cues(question=asked.expand(len(tokens), -1, -1))
        reduce = functools.partial(
            _reduced, how.selector, tokens, how.merge, [among[i] for i in places], cues
        )
        if record is None:
            made = reduce()
        else:
            made, seconds = timed_call(reduce, tokens.device)
            record(seconds, len(some))
        indices = agree(made.indices)
        features = full.take_along_dim(indices.unsqueeze(-1), dim=1)
        if how.merge:
            merged = agree(made.features)
            features = torch.cat([merged, features[..., merged.shape[-1] :]], dim=-1)
        # `masses` is computed when first read, and only "token" needs it.
        masses = agree(made.masses) if how.mass == "token" else indices
        logs = log_mass(masses, m, how.mass, how.alpha)
        each = (len(some), sets)
        parts = (x.unflatten(0, each).flatten(1, 2) for x in (indices, features, logs))
        return list(map(Kept, *parts))

    return in_groups(
        [(plan, one is None) for plan, one in zip(plans, among, strict=True)], together
    )


def _reduced(
    selector: Selector, tokens: Tensor, merge: bool, among: list[list[Cells] | None], cues: Cues
) -> Reduction:
    """Sets `(B, m, d)` reduced, those of one image behind the other; among its cells if given."""
    cells = [each for one in among if one is not None for each in one]
    if not cells:
        return reduce_checked(selector, tokens, merge, cues)
    known = [cues.each(itemgetter(i)) for i in range(len(cells))]
    made = reduce_among(selector, tokens.unbind(), cells, merge, known)
    return Reduction(
        torch.stack([one.indices for one in made]),
        lambda: torch.stack([one.masses for one in made]),
        torch.stack([one.features for one in made]),
    )
