"""What a token array must be, and the normalisations that methods start from.

All functions but the checks take `(B, m, d)` floating tensors. Every normalisation divides by the
largest magnitude first, so that squares of 1e-30 or 1e30 neither vanish nor overflow in float32;
columns do so on a CPU only where squares would. There tokens are worked on a few at a time, which
stay in a processor's cache and are what threads share out (`otprune.threads`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otprune import threads
from otprune.errors import TokenError, WeightError

A = TypeVar("A")

# Numbers that are worked on at once on a CPU.
_CACHED = 2**17
# MKL's sums may depend on where in such a line an array begins.
LINE = 64


def check_tokens(tokens: Any) -> Tensor:
    """`check_shape` and `check_finite`."""
    checked = check_shape(tokens)
    check_finite(checked)
    return checked


def check_shape(tokens: Any) -> Tensor:
    """`tokens` as a tensor of shape `(m, d)` or `(B, m, d)`, floating, dtype untouched.

    numpy arrays are converted.

    Raises:
        TokenError: says which of these the array is not.
    """
    if isinstance(tokens, np.ndarray):
        if tokens.dtype.kind != "f":
            raise TokenError(
                f"tokens have dtype {tokens.dtype}: expected real floating numbers, convert first"
            )
        tokens = torch.from_numpy(np.ascontiguousarray(tokens))
    if not isinstance(tokens, Tensor):
        raise TokenError(
            f"tokens are a {type(tokens).__name__}: expected a torch tensor or numpy array "
            "of shape (m, d) or (B, m, d)"
        )
    shape = tuple(tokens.shape)
    if tokens.ndim not in (2, 3):
        raise TokenError(f"tokens have shape {shape}: expected (m, d) or (B, m, d)")
    if tokens.numel() == 0:
        raise TokenError(f"tokens have shape {shape}, which is empty: expected at least one token")
    if not tokens.is_floating_point():
        raise TokenError(
            f"tokens have dtype {tokens.dtype}: expected real floating numbers, "
            "convert with tokens.float()"
        )
    return tokens


def check_finite(tokens: Tensor) -> None:
    """All of `tokens`, of any shape, are finite in float32, in which everything is computed.

    This is the one place where the host waits for the device. Inside `torch.compile`, and while a
    CUDA graph is captured, nothing can be looked at: there tokens go unchecked, and among NaN some
    or other are kept.

    Raises:
        TokenError: some hold NaN or Inf.
    """
    if torch.compiler.is_compiling():
        return
    if tokens.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    # The extremes first: one look at memory where counting takes several.
    given = tokens.detach().flatten(0, -2)
    if at_hand(given):
        with threads.single():
            parts = by_tokens(lambda some: torch.stack(torch.aminmax(given[some])), given)
        extremes = torch.stack(parts)
    else:
        extremes = torch.stack(torch.aminmax(given))
    if not bool(extremes.float().isfinite().all()):
        broken = int((~torch.isfinite(tokens.detach().float()).all(dim=-1)).sum())
        raise TokenError(
            f"{broken} of {tokens.shape[:-1].numel()} tokens hold NaN or Inf (in float32): "
            "mend the encoder's output first"
        )


def at_hand(x: Tensor) -> bool:
    """Whether the host may look at what is in `x`: on a CPU, and not inside `torch.compile`."""
    return x.is_cpu and not torch.compiler.is_compiling()


def as_array(x: Tensor) -> NDArray[Any]:
    """A numpy array of the same values: the tensor is copied into it, nothing is read out."""
    array = np.empty(tuple(x.shape), str(x.dtype).removeprefix("torch."))
    torch.from_numpy(array).copy_(x)
    return array


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An empty array that begins where torch has its tensors begin, at a line of the cache."""
    size = int(np.prod(shape)) * dtype.itemsize
    room = np.empty(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(dtype).reshape(shape)


def by_tokens(task: Callable[[slice], A], x: Tensor) -> list[A]:
    """What a task makes of the tokens of `(m, d)` or `(B, m, d)` on a CPU, a few at a time."""
    m, d = x.shape[-2:]
    some = threads.parts(m, max(1, _CACHED // d))
    # Handing out takes as long as two parts.
    return threads.spread(task, some) if len(some) > 3 else [task(part) for part in some]


def check_weights(weights: Any, shape: tuple[int, ...]) -> Tensor:
    """`weights` as a float64 tensor of mean 1 along the last dimension, on the CPU.

    One weight a token: `shape` is `(m,)` or `(B, m)`. Any real dtype; numpy arrays and lists too.

    Raises:
        WeightError: wrong shape, negative, not finite, or all zero.
    """
    try:
        w = torch.as_tensor(weights, device="cpu")
    except (TypeError, ValueError, RuntimeError) as cause:
        raise WeightError(f"weights are not numbers ({cause}): expected one a token") from cause
    if tuple(w.shape) != shape:
        raise WeightError(
            f"weights have shape {tuple(w.shape)}: expected one weight a token, shape {shape}"
        )
    if w.is_complex():
        raise WeightError("weights are complex: expected non-negative real numbers")
    # float64 for two reasons: no real weight overflows, and equal weights become exactly 1.
    w = w.detach().double()
    if not bool(torch.isfinite(w).all()):
        raise WeightError("weights hold NaN or Inf: expected finite, non-negative numbers")
    if bool((w < 0).any()):
        raise WeightError("weights hold negative numbers: expected non-negative ones")
    heaviest = w.amax(dim=-1, keepdim=True)
    if bool((heaviest == 0).any()):
        raise WeightError("weights are all zero: at least one token must count")
    w = w / heaviest
    # numpy adds up a row in one order, be it alone or not.
    total = torch.from_numpy(as_array(w).sum(axis=-1, keepdims=True))
    return w * (w.shape[-1] / total)


def scale_down(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens divided by their largest magnitude, `(B, m, d)`, and that magnitude, `(B, 1, 1)`."""
    size = tokens.abs().amax(dim=(-2, -1), keepdim=True)
    return tokens / torch.where(size > 0, size, 1.0), size


def unit_rows(tokens: Tensor) -> Tensor:
    """Every token at Euclidean length one; a zero token stays zero."""
    return _unit_rows(tokens)[0]


def unit_rows_norms(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`unit_rows` and `norms`, read from memory together."""
    points, size, norm = _unit_rows(tokens)
    largest = size.amax(dim=-2, keepdim=True)
    return points, (norm * (size / torch.where(largest > 0, largest, 1.0))).squeeze(-1)


def _unit_rows(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not at_hand(tokens):
        return _rows_into(tokens, tokens.abs())
    room = torch.empty_like(tokens)

    def some(part: slice) -> tuple[Tensor, Tensor]:
        x, here = tokens[..., part, :], room[..., part, :]
        _, size, norm = _rows_into(x, torch.abs(x, out=here))
        return size, norm

    size, norm = (torch.cat(x, dim=-2) for x in zip(*by_tokens(some, tokens), strict=True))
    return room, size, norm


def _rows_into(tokens: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`room` holds magnitudes, and then the tokens at length one."""
    size = room.amax(dim=-1, keepdim=True)
    torch.div(tokens, torch.where(size > 0, size, 1.0), out=room)
    norm = torch.linalg.vector_norm(room, dim=-1, keepdim=True)
    return room.div_(torch.where(norm > 0, norm, 1.0)), size, norm


def unit_columns(tokens: Tensor, weights: Tensor | None = None) -> Tensor:
    """Every feature (column) at length one over the tokens; a zero column stays zero.

    With weights `(B, m)` of mean 1 the length is `sqrt(sum_i w_i x_i^2)`; a column that is zero
    wherever the weight is not becomes zero, since the weighted set does not know of it.
    """
    return unit_columns_norms(tokens, weights)[0]


def unit_columns_norms(
    tokens: Tensor,
    weights: Tensor | None = None,
    length: float | Tensor = 1.0,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`unit_columns`, at a length other than one if asked, and `norms`, but for a factor of a set.

    The length is one for all sets, or `(B, 1, 1)`. Of tokens that are not finite, neither are the
    norms.

    Together, since reading wide tokens from memory is what takes the time; and all in one array,
    `out` if given, since a system that hands out fresh memory takes more.
    """
    room = torch.empty_like(tokens) if out is None else out
    by, square, _ = column_lengths(tokens, weights, length, room)
    if at_hand(tokens):
        by_tokens(lambda some: torch.div(tokens[:, some], by, out=room[:, some]), tokens)
    else:
        torch.div(tokens, by, out=room)
    return room, square.sqrt_()


def column_lengths(
    tokens: Tensor,
    weights: Tensor | None = None,
    length: float | Tensor = 1.0,
    room: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `unit_columns_norms` divides by, `(B, 1, d)`, and what `norms` are made of.

    Returns also the squared lengths of tokens, `(B, m)`, relative to a magnitude of their set, and
    that, `(B, 1, 1)`. `room` is like `tokens` and written over, but not on a CPU.
    """
    if at_hand(tokens):
        each = [
            _lengths_of_one(x, None if weights is None else weights[b])
            for b, x in enumerate(tokens)
        ]
        by, rows, sizes = (torch.stack(x) for x in zip(*each, strict=True))
        return by.unsqueeze(1).div_(length), rows, sizes.view(-1, 1, 1)
    least = torch.finfo(tokens.dtype).tiny
    room = torch.empty_like(tokens) if room is None else room
    size = torch.abs(tokens, out=room).amax(dim=-2, keepdim=True)
    largest = size.amax(dim=-1, keepdim=True)
    share = (size / largest.clamp(min=least)).square_()
    torch.div(tokens, size.clamp_(min=least), out=room).square_()
    w = tokens.new_ones(tokens.shape[:2]) if weights is None else weights
    columns = torch.bmm(w.unsqueeze(1), room)
    by = _or_nothing(columns.sqrt() / length * size, columns)
    return by, torch.bmm(room, share.mT).squeeze(-1), largest


def _lengths_of_one(x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """`column_lengths` of one set, `(m, d)`, on a CPU: `(d,)`, `(m,)` and a number."""
    m, _ = x.shape
    w = x.new_ones(m) if weights is None else weights

    def plain(some: slice) -> tuple[Tensor, Tensor]:
        squares = x[some].square()
        return torch.mv(squares.mT, w[some]), squares.sum(dim=-1)

    columns, rows = _totals(by_tokens(plain, x))
    if _fine(columns, None if weights is None else rows):
        return columns.sqrt_(), rows, x.new_ones(())
    # In twice the passes over memory, with nothing that is above one.
    least = torch.finfo(x.dtype).tiny
    size = torch.stack(by_tokens(lambda some: x[some].abs().amax(dim=0), x)).amax(dim=0)
    largest = size.amax()
    share = (size / largest.clamp(min=least)).square_()
    size.clamp_(min=least)

    def scaled(some: slice) -> tuple[Tensor, Tensor]:
        squares = (x[some] / size).square_()
        return torch.mv(squares.mT, w[some]), torch.mv(squares, share)

    columns, rows = _totals(by_tokens(scaled, x))
    return _or_nothing(columns.sqrt() * size, columns), rows, largest


def _totals(each: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    columns, rows = zip(*each, strict=True)
    return torch.stack(columns).sum(dim=0), torch.cat(rows)


def _or_nothing(by: Tensor, columns: Tensor) -> Tensor:
    """Dividing by infinity makes a column zero."""
    return by.masked_fill_(columns == 0, torch.inf)


def _fine(columns: Tensor, rows: Tensor | None) -> bool:
    """Whether sums of squares are in the range of the dtype, and not so near to its ends that
    rounding shows, or that sums of sums leave it. Not so if any is NaN."""
    limits, sums = torch.finfo(columns.dtype), as_array(columns)
    most = sums.max() if rows is None else max(sums.max(), as_array(rows).max())
    return bool(sums.min() > limits.tiny / limits.eps and most < limits.max * limits.eps)


def norms(tokens: Tensor) -> Tensor:
    """Euclidean length of every token relative to the set's largest magnitude, `(B, m)`."""
    norm: Tensor = torch.linalg.vector_norm(scale_down(tokens)[0], dim=-1)
    return norm
