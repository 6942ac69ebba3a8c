"""Sets of tokens that are chosen from together: of one size, or filled up to one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from otprune.numerics import threads
from otprune.numerics.arrays import host_readable

A = TypeVar("A")

# Numbers of a set from which on its own products are worth sharing out.
_LARGE = 2**22


class Batch(NamedTuple):
    """B sets of one size: tokens `(B, m, d)`, weights `(B, m)` float32 of mean 1 or None."""

    tokens: Tensor
    weights: Tensor | None

    def rows(self) -> list[Batch]:
        """One of B = 1 for each set."""
        return [
            Batch(self.tokens[b : b + 1], None if self.weights is None else self.weights[b : b + 1])
            for b in range(len(self.tokens))
        ]


def alone(task: Callable[..., Tensor], tokens: Tensor, *others: Tensor | None) -> Tensor:
    """What a task makes of tokens `(B, m, d)` and what belongs to them, set by set on a CPU.

    There a set is worked on as if there were no other: what is made of it is the same to the last
    bit, whatever batch it stands in and however many threads there are. Elsewhere all go together.
    """
    if not host_readable(tokens):
        return task(tokens, *others)

    def some(part: slice) -> Tensor:
        return task(tokens[part].contiguous(), *(None if x is None else x[part] for x in others))

    with threads.single():
        made = shared_out(some, threads.parts(len(tokens), 1), tokens[0].numel())
    return made[0] if len(made) == 1 else torch.cat(made)


def shared_out(task: Callable[[A], Tensor], sets: Iterable[A], size: int) -> list[Tensor]:
    """What a task makes of each set on a CPU, where the largest has `size` numbers.

    Each thread has sets of its own if they are small. Large ones come one after the other, and what
    is large in them is shared out.
    """
    with threads.single():
        return [task(one) for one in sets] if size > _LARGE else threads.spread(task, sets)


def shape(one: Batch) -> Hashable:
    """What sets have in common that can be joined as they are."""
    return (*kind(one), one.tokens.shape)


def kind(one: Batch) -> tuple[Hashable, ...]:
    """What sets have in common that can be filled up to one size."""
    return one.tokens.shape[-1], one.tokens.dtype, one.tokens.device, one.weights is None


def joined(sets: Sequence[Batch]) -> Batch:
    """Batches of sets of one size as one batch."""
    if len(sets) == 1:
        return sets[0]
    weights = [one.weights for one in sets if one.weights is not None]
    return Batch(torch.cat([one.tokens for one in sets]), torch.cat(weights) if weights else None)


def padded(sets: Sequence[Batch]) -> Batch:
    """Single sets of any size as one batch, with zeros behind smaller ones."""
    weights = [one.weights[0] for one in sets if one.weights is not None]
    return Batch(
        pad_sequence([one.tokens[0] for one in sets], batch_first=True),
        pad_sequence(weights, batch_first=True) if weights else None,
    )


def in_groups(
    sets: Sequence[Batch],
    key: Callable[[Batch], Hashable],
    together: Callable[[Sequence[Batch]], Iterable[Tensor]],
) -> list[Tensor]:
    """What `together` makes of the sets of one key, in the order of the sets."""
    groups: dict[Hashable, list[int]] = {}
    for i, one in enumerate(sets):
        groups.setdefault(key(one), []).append(i)
    made: dict[int, Tensor] = {}
    for places in groups.values():
        made |= zip(places, together([sets[i] for i in places]), strict=True)
    return [made[i] for i in range(len(sets))]
