"""Normalisations that methods start from: tokens and features at unit length, and their norms.

All functions take `(B, m, d)` floating tensors. Every normalisation divides by the largest
magnitude first, so that squares of 1e-30 or 1e30 neither vanish nor overflow in float32; columns on
a CPU only where squares would, which is looked at afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.numerics.arrays import as_array, by_tokens, host_readable


def scale_down(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens divided by their largest magnitude, `(B, m, d)`, and that magnitude, `(B, 1, 1)`."""
    size = tokens.abs().amax(dim=(-2, -1), keepdim=True)
    return tokens / torch.where(size > 0, size, 1.0), size


def unit_rows(tokens: Tensor) -> Tensor:
    """Every token at Euclidean length one; a zero token stays zero."""
    return _unit_rows(tokens)[0]


def unit_rows_norms(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`unit_rows` and `norms`, in one pass over memory."""
    points, size, norm = _unit_rows(tokens)
    largest = size.amax(dim=-2, keepdim=True)
    return points, (norm * (size / torch.where(largest > 0, largest, 1.0))).squeeze(-1)


def _unit_rows(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not host_readable(tokens):
        return _rows_into(tokens, tokens.abs())
    buffer = torch.empty_like(tokens)

    def some(part: slice) -> tuple[Tensor, Tensor]:
        x, here = tokens[..., part, :], buffer[..., part, :]
        _, size, norm = _rows_into(x, torch.abs(x, out=here))
        return size, norm

    size, norm = (torch.cat(x, dim=-2) for x in zip(*by_tokens(some, tokens), strict=True))
    return buffer, size, norm


def _rows_into(tokens: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`buffer` holds the magnitudes, and afterwards the tokens at unit length."""
    size = buffer.amax(dim=-1, keepdim=True)
    torch.div(tokens, torch.where(size > 0, size, 1.0), out=buffer)
    norm = torch.linalg.vector_norm(buffer, dim=-1, keepdim=True)
    return buffer.div_(torch.where(norm > 0, norm, 1.0)), size, norm


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
    """`unit_columns`, at a length other than one if asked, and `norms` up to one scale per set.

    The length is one for all sets, or `(B, 1, 1)`. The norms of tokens that are not finite are not
    finite either.

    Both together, since most of the time goes into reading wide tokens from memory; and in one
    array, `out` if given, since fresh memory is slow at first touch.
    """
    buffer = torch.empty_like(tokens) if out is None else out
    by, square, _ = column_lengths(tokens, weights, length, buffer)
    if host_readable(tokens):
        by_tokens(lambda some: torch.div(tokens[:, some], by, out=buffer[:, some]), tokens)
    else:
        torch.div(tokens, by, out=buffer)
    return buffer, square.sqrt_()


def damped_columns(tokens: Tensor, limit: float) -> Tensor:
    """Tokens whose dominating features (columns) are scaled down, `(B, m, d)`.

    A column longer than `limit` times the median of a set's columns becomes that long. Zero columns
    do not count in the median.
    """
    by = column_lengths(tokens)[0]
    known = torch.where(by.isinf(), torch.nan, by)
    median = known.nanmedian(dim=-1, keepdim=True).values
    factor = (median / by * limit).clamp(max=1.0)
    return tokens * torch.where(median.isnan(), 1.0, factor)


def column_lengths(
    tokens: Tensor,
    weights: Tensor | None = None,
    length: float | Tensor = 1.0,
    buffer: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths of the columns, `(B, 1, d)`, divided by `length`; infinite for zero columns.

    Also the squared lengths of the tokens, `(B, m)`, relative to a magnitude of their set, and that
    magnitude, `(B, 1, 1)`. `buffer` is like `tokens` and is overwritten.
    """
    if host_readable(tokens):
        each = [
            _lengths_of_one(
                x, None if weights is None else weights[b], None if buffer is None else buffer[b]
            )
            for b, x in enumerate(tokens)
        ]
        by, rows, sizes = (torch.stack(x) for x in zip(*each, strict=True))
        return by.unsqueeze(1).div_(length), rows, sizes.view(-1, 1, 1)
    least = torch.finfo(tokens.dtype).tiny
    buffer = torch.empty_like(tokens) if buffer is None else buffer
    size = torch.abs(tokens, out=buffer).amax(dim=-2, keepdim=True)
    largest = size.amax(dim=-1, keepdim=True)
    share = (size / largest.clamp(min=least)).square_()
    torch.div(tokens, size.clamp_(min=least), out=buffer).square_()
    w = tokens.new_ones(tokens.shape[:2]) if weights is None else weights
    columns = torch.bmm(w.unsqueeze(1), buffer)
    by = _infinite_where_zero(columns.sqrt() / length * size, columns)
    return by, torch.bmm(buffer, share.mT).squeeze(-1), largest


def _lengths_of_one(
    x: Tensor, weights: Tensor | None, buffer: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`column_lengths` of one set, `(m, d)`, on a CPU: `(d,)`, `(m,)` and a number."""
    m, _ = x.shape
    w = x.new_ones(m) if weights is None else weights

    def plain(some: slice) -> tuple[Tensor, Tensor]:
        part = x[some]
        squares = torch.mul(part, part, out=None if buffer is None else buffer[some])
        return torch.mv(squares.mT, w[some]), squares.sum(dim=-1)

    columns, rows = _totals(by_tokens(plain, x))
    if _in_range(columns, None if weights is None else rows):
        return columns.sqrt_(), rows, x.new_ones(())
    # Squares left the range of the dtype: again with nothing above one, in twice the passes.
    least = torch.finfo(x.dtype).tiny
    size = torch.stack(by_tokens(lambda some: x[some].abs().amax(dim=0), x)).amax(dim=0)
    largest = size.amax()
    share = (size / largest.clamp(min=least)).square_()
    size.clamp_(min=least)

    def scaled(some: slice) -> tuple[Tensor, Tensor]:
        squares = (x[some] / size).square_()
        return torch.mv(squares.mT, w[some]), torch.mv(squares, share)

    columns, rows = _totals(by_tokens(scaled, x))
    return _infinite_where_zero(columns.sqrt() * size, columns), rows, largest


def _totals(each: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    columns, rows = zip(*each, strict=True)
    return torch.stack(columns).sum(dim=0), torch.cat(rows)


def _infinite_where_zero(by: Tensor, columns: Tensor) -> Tensor:
    """Dividing by infinity makes a zero column zero."""
    return by.masked_fill_(columns == 0, torch.inf)


def _in_range(columns: Tensor, rows: Tensor | None) -> bool:
    """Whether sums of squares lie well inside the range of the dtype; False if any is NaN."""
    limits, sums = torch.finfo(columns.dtype), as_array(columns)
    most = sums.max() if rows is None else max(sums.max(), as_array(rows).max())
    return bool(sums.min() > limits.tiny / limits.eps and most < limits.max * limits.eps)


def norms(tokens: Tensor) -> Tensor:
    """Euclidean length of every token relative to the set's largest magnitude, `(B, m)`."""
    norm: Tensor = torch.linalg.vector_norm(scale_down(tokens)[0], dim=-1)
    return norm
