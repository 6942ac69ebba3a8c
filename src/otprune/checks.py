"""What an array of tokens must be, and what is given beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprune.errors import CueError, TokenError, WeightError
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

    This and `check_cue` are the places where the host waits for the device. Inside `torch.compile`,
    and while a CUDA graph is captured, nothing can be looked at: there tokens go unchecked, and
    among NaN some or other are kept.

    Raises:
        TokenError: some hold NaN or Inf.
    """
    if _unreadable(tokens):
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


def _unreadable(x: Tensor) -> bool:
    """Whether no value can be read now: inside `torch.compile`, while a CUDA graph is captured."""
    if torch.compiler.is_compiling():
        return True
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


# What a cue's shape is for one set of m tokens with d features; letters in quotes may be any size.
_SHAPES: dict[str, tuple[str, ...]] = {
    "weights": ("m",),
    "saliency": ("m",),
    "keys": ("m", "heads", "c"),
    "encoded": ("m", "e"),
    "question": ("n", "d"),
    "grid": ("m", "3"),
}


def check_cue(name: str, value: Any, tokens: Tensor) -> Tensor:
    """A cue for tokens `(m, d)` or `(B, m, d)` as a tensor on their device; see `Cues`.

    float32, but int64 for "grid". Weights are scaled to mean 1.

    Raises:
        CueError: it is no array of numbers, has another shape than `Cues` says, holds NaN or Inf,
            or is negative where that has no meaning.
        WeightError: the same of weights.
    """
    if name == "weights":
        return check_weights(value, tuple(tokens.shape[:-1])).float().to(tokens.device)
    try:
        x = _dense(value).detach().to(tokens.device)
    except (TypeError, ValueError, RuntimeError) as cause:
        raise CueError(f"{name} is no array of numbers: {cause}") from cause
    expected = _SHAPES[name]
    batch, sizes = tokens.shape[:-2], {"m": tokens.shape[-2], "d": tokens.shape[-1], "3": 3}
    fits = len(x.shape) == len(batch) + len(expected) and all(
        sizes.get(letter, size) == size
        for letter, size in zip(expected, x.shape[len(batch) :], strict=True)
    )
    if not fits or x.shape[: len(batch)] != batch:
        shape = ", ".join(("B", *expected) if batch else expected)
        raise CueError(
            f"{name} has shape {tuple(x.shape)}: expected ({shape}) for tokens of shape "
            f"{tuple(tokens.shape)}"
        )
    if name == "grid":
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise CueError(f"grid has dtype {x.dtype}: expected whole numbers, such as int64")
        return x.long()
    if not x.is_floating_point():
        raise CueError(f"{name} has dtype {x.dtype}: expected real floating numbers")
    x = x.float()
    if _unreadable(x) or not x.numel():
        return x
    if not bool(x.isfinite().all()):
        raise CueError(f"{name} holds NaN or Inf (in float32): expected finite numbers")
    if name == "saliency" and bool((x < 0).any()):
        raise CueError("saliency holds negative numbers: expected non-negative ones")
    return x


def _dense(values: Any) -> Tensor:
    """Anything that torch takes as an array, as a strided tensor."""
    if isinstance(values, np.ndarray):
        values = np.ascontiguousarray(values)  # torch takes no negative strides
    x = torch.as_tensor(values)
    return x if x.layout == torch.strided else x.to_dense()


def check_weights(weights: Any, shape: tuple[int, ...]) -> Tensor:
    """`weights` as a float64 tensor of mean 1 along the last dimension, on the CPU.

    One weight a token: `shape` is `(m,)` or `(B, m)`. Any real dtype; numpy arrays and lists too.

    Raises:
        WeightError: wrong shape, negative, not finite, or all zero.
    """
    try:
        w = _dense(weights).cpu()
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
