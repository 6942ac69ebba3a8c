"""What an array of tokens, and the weights of tokens, must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprune.errors import TokenError, WeightError
from otprune.numerics import threads
from otprune.numerics.arrays import as_array, by_tokens, host_readable


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
        if tokens.dtype not in (np.float16, np.float32, np.float64):  # torch has no others
            raise TokenError(
                f"tokens have dtype {tokens.dtype}: expected real floating numbers, convert first "
                "(to float16, float32 or float64 in this machine's byte order)"
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
    if host_readable(given):
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


def check_weights(weights: Any, shape: tuple[int, ...]) -> Tensor:
    """`weights` as a float64 tensor of mean 1 along the last dimension, on the CPU.

    One weight a token: `shape` is `(m,)` or `(B, m)`. Any real dtype; numpy arrays and lists too.

    Raises:
        WeightError: wrong shape, negative, not finite, or all zero.
    """
    try:
        if isinstance(weights, np.ndarray):
            weights = np.ascontiguousarray(weights)  # torch takes no negative strides
        w = torch.as_tensor(weights, device="cpu")
        if w.layout != torch.strided:
            w = w.to_dense()
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
