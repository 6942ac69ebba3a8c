"""What a token array must be, and the normalisations that methods start from.

All functions but the checks take `(B, m, d)` floating tensors. Every normalisation divides by the
largest magnitude first, so that squares of 1e-30 or 1e30 neither vanish nor overflow in float32;
columns do so on a CPU only where squares would.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otprune.errors import TokenError, WeightError


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
    if not bool(torch.stack(torch.aminmax(tokens.detach())).float().isfinite().all()):
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
    return w * (w.shape[-1] / w.sum(dim=-1, keepdim=True))


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
    room = tokens.abs()
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
    by, square, _ = column_lengths(tokens, room, weights, length)
    return torch.div(tokens, by, out=room), square.sqrt_()


def column_lengths(
    tokens: Tensor, room: Tensor, weights: Tensor | None = None, length: float | Tensor = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """What `unit_columns_norms` divides by, `(B, 1, d)`, and what `norms` are made of.

    Returns also the squared lengths of tokens, `(B, m)`, relative to a magnitude of their set, and
    that, `(B, 1, 1)`. `room` is like `tokens` and written over.
    """
    if at_hand(tokens):
        columns, squares, fine = _sums_of_squares(tokens, room, weights)
        if fine.all():
            return columns.sqrt_().div_(length), squares, tokens.new_ones(len(tokens), 1, 1)
        if fine.any():  # what is done to a set is not to depend on others
            given = tokens, room, weights, length
            each = [column_lengths(*(_alone(x, b) for x in given)) for b in range(len(tokens))]
            by, squares, largest = map(torch.cat, zip(*each, strict=True))
            return by, squares, largest
    least = torch.finfo(room.dtype).tiny
    size = torch.abs(tokens, out=room).amax(dim=-2, keepdim=True)
    largest = size.amax(dim=-1, keepdim=True)
    share = (size / largest.clamp(min=least)).square_()
    torch.div(tokens, size.clamp_(min=least), out=room).square_()
    columns = _over_tokens(room, weights)
    # Dividing by infinity makes a column zero.
    by = (columns.sqrt() / length).mul_(size).masked_fill_(columns == 0, torch.inf)
    return by, torch.bmm(room, share.mT).squeeze(-1), largest


def _alone(x: Any, b: int) -> Any:
    """What belongs to set b, or to all."""
    return x[b : b + 1] if isinstance(x, Tensor) else x


def _sums_of_squares(
    tokens: Tensor, room: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
    """Over the tokens, weighted, `(B, 1, d)`, and over features, `(B, m)`; on a CPU.

    In half the passes over memory that it takes to divide by the largest first. Whether a set may
    do so, `(B,)`, is known afterwards: its sums must be in the range of the dtype, and not so near
    to its ends that rounding shows, or that sums of sums leave it.
    """
    torch.mul(tokens, tokens, out=room)
    columns, rows = _over_tokens(room, weights), room.sum(dim=-1)
    limits, sums = torch.finfo(rows.dtype), as_array(columns)
    least, most = sums.min(axis=(1, 2)), sums.max(axis=(1, 2))
    if weights is not None:  # without, no row is longer than all columns
        most = np.maximum(most, as_array(rows).max(axis=1))
    # Not so if any is NaN.
    fine: NDArray[np.bool_] = (least > limits.tiny / limits.eps) & (most < limits.max * limits.eps)
    return columns, rows, fine


def _over_tokens(x: Tensor, weights: Tensor | None) -> Tensor:
    """The sum over tokens, weighted, `(B, 1, d)`, as a product, which takes least time.

    Of one set on a CPU each thread adds up the tokens that it has just written, since processors
    may have no cache in common. Of several it has sets of its own anyway.
    """
    batch, m, d = x.shape
    w = x.new_ones(batch, 1, m) if weights is None else weights.unsqueeze(1)
    threads = torch.get_num_threads() if batch == 1 and at_hand(x) else 1
    share = m // threads
    if threads == 1 or share == 0:
        return torch.bmm(w, x)
    even = threads * share
    parts = w[..., :even].reshape(threads, 1, share), x[:, :even].reshape(threads, share, d)
    sums = torch.bmm(*parts).sum(dim=0, keepdim=True)
    return sums if even == m else sums.baddbmm_(w[..., even:], x[:, even:])


def norms(tokens: Tensor) -> Tensor:
    """Euclidean length of every token relative to the set's largest magnitude, `(B, m)`."""
    norm: Tensor = torch.linalg.vector_norm(scale_down(tokens)[0], dim=-1)
    return norm
