"""The greedy of `greedy.logdet`, all picks in one launch: a Triton kernel, one program a set.

Pick by pick a device waits for the next launch most of the time on small sets. Here one program, on
one multiprocessor, goes through all picks of its set. That suits many small sets: a large one would
be read by one multiprocessor, where `sequential` uses all of them. Triton is imported with this
module and by nothing else.

Synchronisation inside a program: a token's excess, and whether it is a candidate, stay with the
threads that hold them, and the pick is a reduction, which Triton synchronises. Only the factor goes
through memory: its row t is written token by token, and from the next pick on every thread reads a
column of it. One barrier a pick separates the two. That is enough: no row is written twice, and
none is read before the next pick.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from otprune.errors import MissingDependencyError, UnsupportedError
from otprune.greedy.ties import TOLERANCE
from otprune.numerics import threads
from otprune.numerics.lowrank import LowRank

try:
    import triton
    import triton.language as tl
except ImportError as cause:
    raise MissingDependencyError(
        "backend='triton' needs Triton, which is not installed: pip install 'otprune[triton]', "
        "or leave the backend at 'torch'"
    ) from cause

# Elements that a program reads at once.
_TILE = 8192
# Behind every place in the tie order: padding, and what has been picked.
_NOBODY = tl.constexpr(2**31 - 1)


@triton.jit
def _combination(vector, step, matrix, n, m, i, there, ROWS: tl.constexpr):
    """`sum_c vector[c * step] * matrix[c, i]` over c < n, for all tokens i: `(TOKENS,)`."""
    total = tl.zeros(i.shape, tl.float32)
    for start in range(0, n, ROWS):
        c = start + tl.arange(0, ROWS).to(tl.int64)
        weight = tl.load(vector + c * step, mask=c < n, other=0.0)
        inside = (c < n)[:, None] & there[None, :]
        rows = tl.load(matrix + c[:, None] * m + i[None, :], mask=inside, other=0.0)
        total += tl.sum(weight[:, None] * rows, axis=0)
    return total


@triton.jit
def _greedy(
    left,  # (B, m, r)
    across,  # (B, r, m)
    diagonal,  # (B, m)
    tie_order,  # (B, m)
    lengths,  # (B,)
    counts,  # (B,)
    factor,  # (B, k, m), to work in
    order,  # (B, k)
    m,
    r,
    k,
    shift,
    tolerance,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    left += b * m * r
    across += b * r * m
    factor += b * k * m
    i = tl.arange(0, TOKENS).to(tl.int64)
    there = i < tl.load(lengths + b)
    place = tl.load(tie_order + b * m + i, mask=there, other=_NOBODY)
    excess = tl.maximum(tl.load(diagonal + b * m + i, mask=there, other=0.0), 0.0)
    for t in range(tl.load(counts + b)):
        top = tl.max(tl.where(place < _NOBODY, excess, 0.0), axis=0)
        tied = excess >= top - tolerance * top
        j = tl.argmin(tl.where(tied, place, _NOBODY), axis=0).to(tl.int64)
        tl.store(order + b * k + t, j)
        place = tl.where(i == j, _NOBODY, place)
        # The Cholesky factor's next row; see `speculative` for what is imposed on it.
        fresh = _combination(left + j * r, 1, across, r, m, i, there, ROWS)
        fresh -= _combination(factor + j, m, factor, t, m, i, there, ROWS)
        own = tl.sum(tl.where(i == j, excess, 0.0), axis=0)
        fresh /= tl.sqrt(own + shift)
        limit = tl.sqrt(excess * (own / (own + shift)))
        fresh = tl.minimum(tl.maximum(fresh, -limit), limit)
        excess = tl.maximum(excess - fresh * fresh, 0.0)
        tl.store(factor + t * m + i, fresh, mask=there)
        tl.debug_barrier()


def greedy(
    M: LowRank,
    k: int,
    tie_order: Tensor,
    shift: float,
    lengths: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """`logdet.greedy` in one launch: the same picks, `(B, k)` int64.

    Sets of several sizes go together, padded to one m.

    Args:
        M: `(B, m, m)` in float32. What is beyond a set's length is not read.
        k: as of `logdet.greedy`.
        tie_order: as of `logdet.greedy`.
        shift: as of `logdet.greedy`.
        lengths: `(B,)` integers, how many tokens each set has, the first of its m; None for m.
        counts: `(B,)` integers, how many to pick of each, at most k and its length; None for k.
            Where a set picks less than k, -1 follows.

    Raises:
        MissingDependencyError: on import of this module, if Triton is not installed.
        UnsupportedError: the tensors are not on a CUDA or ROCm device, and Triton does not run in
            its interpreter.
    """
    batch, m = tie_order.shape
    if not tie_order.is_cuda and isinstance(_greedy, triton.JITFunction):
        raise UnsupportedError(
            f"backend='triton' runs on CUDA and ROCm devices, and the tokens are on "
            f"{tie_order.device}: move them, or leave the backend at 'torch'. (For tests Triton "
            "has an interpreter: TRITON_INTERPRET=1 in the environment before it is imported.)"
        )
    tokens = triton.next_power_of_2(m)
    order = tie_order.new_full((batch, k), -1)
    # Triton launches on the current device, whichever the tensors are on. Its interpreter replaces
    # functions of Triton during a launch, so that two threads would disturb each other.
    alone = nullcontext() if tie_order.is_cuda else threads.turn()
    with torch.cuda.device_of(tie_order), alone:
        _greedy[(batch,)](
            M.left.contiguous(),
            M.right.mT.contiguous(),
            M.diagonal().contiguous(),
            tie_order.contiguous(),
            tie_order.new_full((batch,), m) if lengths is None else lengths,
            tie_order.new_full((batch,), k) if counts is None else counts,
            M.left.new_empty(batch, k, m),
            order,
            m,
            M.left.shape[-1],
            k,
            shift,
            TOLERANCE,
            TOKENS=tokens,
            ROWS=max(1, min(32, _TILE // tokens)),
            num_warps=8 if tokens <= 2048 else 16,
            num_stages=1,  # no load is moved ahead of an earlier pick's store
            enable_fp_fusion=True,  # said, since Triton's default is about to change
        )
    return order
