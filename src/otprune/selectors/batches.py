"""Batches of token sets: of one size, or padded to one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from otprune.numerics import threads
from otprune.numerics.arrays import host_readable
from otprune.selectors.cues import Cues

A = TypeVar("A")

# Elements of a set above which its matrix products are distributed among threads.
_LARGE = 2**22


class Batch(NamedTuple):
    """B sets of one size: tokens `(B, m, d)`, and what else is known of them."""

    tokens: Tensor
    cues: Cues = Cues()

    def part(self, rows: slice) -> Batch:
        """Some of the sets."""
        return Batch(self.tokens[rows], self.cues.each(lambda x: x[rows]))

    def rows(self) -> list[Batch]:
        """One batch of B = 1 for each set."""
        return [self.part(slice(b, b + 1)) for b in range(len(self.tokens))]


def alone(task: Callable[..., Tensor], batch: Batch, *others: Tensor) -> Tensor:
    """The result of a task for a batch and other tensors `(B, ...)`, set by set on a CPU.

    On a CPU the task runs separately for each set, so its result is the same to the last bit in any
    batch and with any number of threads. On other devices it runs once for the whole batch.
    """
    if not host_readable(batch.tokens):
        return task(batch, *others)

    def some(rows: slice) -> Tensor:
        part = batch.part(rows)
        whole = Batch(part.tokens.contiguous(), part.cues)
        return task(whole, *(x[rows] for x in others))

    with threads.single():
        size = batch.tokens[0].numel()
        made = shared_out(some, threads.parts(len(batch.tokens), 1), size)
    return made[0] if len(made) == 1 else torch.cat(made)


def shared_out(task: Callable[[A], Tensor], sets: Iterable[A], size: int) -> list[Tensor]:
    """The result of a task for each set on a CPU; the largest has `size` elements.

    Small sets are distributed among threads. Large sets are processed one after the other, with
    their large operations distributed among threads.
    """
    with threads.single():
        return [task(one) for one in sets] if size > _LARGE else threads.spread(task, sets)


def stack_key(one: Batch) -> Hashable:
    """Equal for batches that can be concatenated."""
    sizes = tuple(None if x is None else x.shape for x in one.cues.given)
    return (pad_key(one), one.tokens.shape, sizes)


def pad_key(one: Batch) -> Hashable:
    """Equal for batches that can be padded to one size."""
    known = tuple(x is None for x in one.cues.given)
    return one.tokens.shape[-1], one.tokens.dtype, one.tokens.device, known


def joined(several: Sequence[Batch]) -> Batch:
    """Batches of one `stack_key` as one, in order."""
    if len(several) == 1:
        return several[0]
    tokens = torch.cat([one.tokens for one in several])
    return Batch(tokens, Cues.joined([one.cues for one in several]))


def padded(sets: Sequence[Batch]) -> tuple[Tensor, Tensor | None]:
    """Tokens and weights of single sets of one `pad_key`, zero-padded to the largest."""
    weights = [one.cues.weights[0] for one in sets if one.cues.weights is not None]
    return (
        pad_sequence([one.tokens[0] for one in sets], batch_first=True),
        pad_sequence(weights, batch_first=True) if weights else None,
    )


def in_groups(keys: Iterable[Hashable], together: Callable[[list[int]], Iterable[A]]) -> list[A]:
    """Call `together` with the indices of each distinct key; results in the order of `keys`."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    made: dict[int, A] = {}
    for places in groups.values():
        made |= zip(places, together(places), strict=True)
    return [made[i] for i in range(len(made))]
