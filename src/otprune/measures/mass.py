"""Masses of kept tokens in attention, and the error of attention over kept tokens.

Softmax over m tokens, n_j of them equal to token j, is softmax over one of each with `log n_j`
added to its logit ("proportional attention", Bolya et al., "Token merging: your ViT but faster",
ICLR 2023). Pruning drops that term: the k kept tokens compete with the text as k tokens, not as m,
and all alike. Two ways to restore it: "total" gives every kept token the same `n = m / k`, so that
the image keeps its weight against the text; "token" gives each the number of tokens that it stands
for. Both sum to m, and are the same when all masses are equal.

A token of mass n equals n literal copies at its position that attend to each other. It does not
equal causal copies, which differ from the second layer on, nor copies under a sliding window, which
count against the window while a mass does not.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor

from otprune.errors import OTPruneError

Mass = Literal["none", "total", "token"]
Distance = bool | Literal["auto"]
# Greatest alpha: with more, biases would leave the range of float16, and then of float32.
STRONGEST = 100


def check_mass(mass: object) -> Mass:
    """`mass` as it is.

    Raises:
        OTPruneError: it is not a `Mass`.
    """
    if mass not in get_args(Mass):
        raise OTPruneError(f'mass={mass!r}: expected "none", "total" or "token"')
    return mass  # type: ignore[return-value]


def check_distance(distance: object) -> Distance:
    """`distance` as it is.

    Raises:
        OTPruneError: it is neither True nor False nor "auto".
    """
    if not (isinstance(distance, bool) or distance == "auto"):
        raise OTPruneError(f'distance={distance!r}: expected True, False or "auto"')
    return distance


def check_alpha(alpha: object) -> float:
    """`alpha`, the strength of a mass, as a float: 0 is none of it, 1 all.

    Raises:
        OTPruneError: it is not a number from 0 to `STRONGEST`.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, Real):
        raise OTPruneError(f"alpha={alpha!r}: expected a number >= 0, usually 1")
    strength = float(alpha)
    if not 0 <= strength <= STRONGEST:  # NaN too
        raise OTPruneError(f"alpha={strength}: expected a number from 0 to {STRONGEST}, usually 1")
    return strength


def counts(masses: Tensor, m: int) -> Tensor:
    """Number of the m tokens that each kept one stands for, itself included; sums to m."""
    return m * masses


def log_mass(masses: Tensor, m: int, mass: Mass, alpha: float = 1.0) -> Tensor:
    """What is added to the attention logits of the kept tokens, `(..., k)` float32.

    With weights a kept token can have no mass, if neither it nor any token of its cell counts. It
    is then hidden by a finite bias, about -87 `alpha`, since -inf would make NaN of a query that
    sees nothing else. Without weights every mass is at least 1/m.

    Args:
        masses: `(..., k)`, sums to 1: the share of the full set that each kept token stands for.
        m: number of tokens in the full set, k among them.
        mass: "total" is `alpha * log(m / k)` for every token, "token" `alpha * log(n_j)` with
            `n_j = m * masses_j`, "none" zero.
        alpha: strength, from 0 to `STRONGEST`.

    Raises:
        OTPruneError: `mass` or `alpha` is not what it says here, or m < k.
    """
    mass, alpha = check_mass(mass), check_alpha(alpha)
    k = masses.shape[-1]
    if m < k:
        raise OTPruneError(f"{k} kept tokens of {m}: expected at most {m}")
    masses = masses.float()
    if mass == "token":
        return alpha * counts(masses, m).clamp(min=torch.finfo(torch.float32).tiny).log()
    return torch.full_like(masses, alpha * math.log(m / k) if mass == "total" else 0.0)


def log_distance(queries: Tensor, keys: Tensor, head: int) -> Tensor:
    """The distance term `log(c - D(m - n))`, c = 2, of every query m and key n.

    Rotary embeddings make distant tokens attend less to each other, and the few kept tokens of an
    image are far from most text. D is the mean, over the pairs of features of a head, of the cosine
    of the angle between a query and a key: `D(t) = 2/d sum_j cos(t theta_j)`, 1 at distance 0 and
    about 0 far away. The term lets a far key count up to twice as much (three times where D is
    negative). RESTORE, ICML 2026 (arXiv 2606.01711), which adds it between all pairs of tokens.

    Since `cos(a - b) = cos a cos b + sin a sin b`, no tensor of all pairs and frequencies is made.

    Args:
        queries: `(..., q, 2 r)` float32: cosines, then sines, of the angles by which the r rotated
            features of a head are turned; both features of a pair have the pair's angle.
        keys: `(..., n, 2 r)`, the same.
        head: d, the features of a head. Those that are not rotated have angle 0.

    Returns:
        `(..., q, n)` float32.
    """
    fixed = head - queries.shape[-1] // 2
    # In place, since q n numbers are many for a long prompt.
    return (queries @ keys.mT).add_(fixed).div_(-head).add_(2).log_()


def attention_error(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    kept: Tensor,
    log_mass: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """How far each query's attention output moves when only some keys are kept, `(..., q)`.

    Euclidean distance between `softmax(scale Q K^T) V` and the same over the kept keys, `log_mass`
    added to their logits. To see an image's weight against a prompt, let the keys hold the text
    too: keep all of it, with log mass 0.

    Args:
        queries: `(..., q, d)`.
        keys: `(..., m, d)`.
        values: `(..., m, v)`.
        kept: `(k,)` or `(..., k)` int64, indices of kept keys.
        log_mass: `(k,)` or `(..., k)`, none if None.
        scale: `d ** -0.5` if None.
    """
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    full = (scale * queries @ keys.mT).softmax(dim=-1) @ values
    logits = scale * queries @ _rows(keys, kept).mT
    if log_mass is not None:
        logits = logits + log_mass.to(logits.dtype).unsqueeze(-2)
    moved = logits.softmax(dim=-1) @ _rows(values, kept) - full
    return moved.square().sum(dim=-1).sqrt()


def _rows(x: Tensor, kept: Tensor) -> Tensor:
    return x.gather(-2, kept.unsqueeze(-1).expand(*x.shape[:-2], kept.shape[-1], x.shape[-1]))
