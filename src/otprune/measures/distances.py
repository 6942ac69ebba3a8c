"""How far a kept set is from the full one: three squared 2-Wasserstein distances.

All work on tokens as they are given (raw; normalise first for another space), in float64 on the
CPU, and return a float in squared units of the tokens. The full set has uniform mass unless
`full_mass` says otherwise; only the ratios of masses matter.

Raises, in all three: `TokenError` for arrays that are not finite and floating of shapes `(m, d)`
and `(k, d)`; `WeightError` for masses that do not fit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otprune.checks import check_tokens, check_weights
from otprune.errors import MissingDependencyError, TokenError
from otprune.numerics.distances import squared_distances

_LIMIT = {"numItermax": 10_000_000}


def gaussian_w2(full: Any, kept: Any, centered: bool = False, full_mass: Any = None) -> float:
    """Squared 2-Wasserstein distance between Gaussians of the sets' moments (Bures).

    `tr(A) + tr(B) - 2 tr((A^1/2 B A^1/2)^1/2)` for second moments `A = V^T V / m` and
    `B = C^T C / k`: zero-mean Gaussians, as in OTPrune (arXiv 2602.20205). The cross term is the
    nuclear norm of `V C^T / sqrt(m k)`, so that no `d x d` root is ever taken.

    Args:
        full: `(m, d)` floating.
        kept: `(k, d)` floating, of uniform mass.
        centered: Gaussians with the sets' own means: covariances instead of second moments,
            plus the squared distance of the means.
        full_mass: `(m,)` non-negative, uniform if None.
    """
    V, C = _pair(full, kept)
    p, q = _mass(full_mass, V).unsqueeze(-1), _mass(None, C).unsqueeze(-1)
    apart = V.new_zeros(())
    if centered:
        mean_v, mean_c = (p * V).sum(dim=0), (q * C).sum(dim=0)
        apart = (mean_v - mean_c).square().sum()
        V, C = V - mean_v, C - mean_c
    X, Y = _thin(p.sqrt() * V), _thin(q.sqrt() * C)
    cross = torch.linalg.svdvals(X @ Y.mT).sum()
    spread = X.square().sum() + Y.square().sum() - 2 * cross
    return float(apart + spread.clamp(min=0))


def exact_w2(full: Any, kept: Any, kept_mass: Any = None, full_mass: Any = None) -> float:
    """Squared 2-Wasserstein distance between the two sets as point clouds, by linear programming.

    Solved by POT's network simplex: seconds at thousands of tokens, minutes at tens of thousands.

    Args:
        full: `(m, d)` floating.
        kept: `(k, d)` floating.
        kept_mass: `(k,)` non-negative, uniform if None.
        full_mass: `(m,)` non-negative, uniform if None.

    Raises:
        MissingDependencyError: POT is not installed.
    """
    V, C = _pair(full, kept)
    solver = _solver("exact_w2")
    cost, size = _unit_cost(V, C)
    solved = solver.emd2(*_marginals(V, C, full_mass, kept_mass), cost.numpy(), **_LIMIT)
    return max(0.0, float(solved)) * size


def exact_plan(full: Any, kept: Any, kept_mass: Any = None, full_mass: Any = None) -> Tensor:
    """The plan behind `exact_w2`, `(k, m)` float64: how much of each token goes to each kept one.

    Rows sum to the kept masses, columns to the full ones. Where `TransportPrune` lets the masses
    follow from the tokens, here they are prescribed; rows divided by their sums average the tokens
    that a kept one then stands for. Arguments and errors as for `exact_w2`.
    """
    V, C = _pair(full, kept)
    solver = _solver("exact_plan")
    p, q = _marginals(V, C, full_mass, kept_mass)
    return torch.from_numpy(solver.emd(p, q, _unit_cost(V, C)[0].numpy(), **_LIMIT)).mT


def free_mass_w2(full: Any, kept: Any, full_mass: Any = None) -> float:
    """Squared 2-Wasserstein distance when the kept tokens carry whatever mass suits best.

    Equal to `mean_i min_j |v_i - c_j|^2`: every token goes to its nearest kept one.

    Args:
        full: `(m, d)` floating.
        kept: `(k, d)` floating.
        full_mass: `(m,)` non-negative, uniform if None.
    """
    V, C = _pair(full, kept)
    return float(_mass(full_mass, V) @ _cost(V, C).amin(dim=-1))


def _pair(full: Any, kept: Any) -> tuple[Tensor, Tensor]:
    sets = []
    for name, tokens in (("full", full), ("kept", kept)):
        checked = check_tokens(tokens)
        if checked.ndim != 2:
            raise TokenError(
                f"{name} has shape {tuple(checked.shape)}: expected one set, (tokens, d)"
            )
        sets.append(checked.detach().cpu().double())
    V, C = sets
    if V.shape[1] != C.shape[1]:
        raise TokenError(
            f"full has {V.shape[1]} features a token and kept {C.shape[1]}: expected the same"
        )
    return V, C


def _mass(mass: Any, tokens: Tensor) -> Tensor:
    m = tokens.shape[0]
    if mass is None:
        return tokens.new_full((m,), 1 / m)
    return check_weights(mass, (m,)) / m


def _marginals(V: Tensor, C: Tensor, full_mass: Any, kept_mass: Any) -> tuple[Any, Any]:
    return _mass(full_mass, V).numpy(), _mass(kept_mass, C).numpy()


def _solver(name: str) -> Any:
    try:
        import ot
    except ImportError as cause:
        raise MissingDependencyError(
            f"{name} needs POT, which is not installed: pip install 'otprune[exact]'"
        ) from cause
    return ot


def _unit_cost(V: Tensor, C: Tensor) -> tuple[Tensor, float]:
    """The cost over its largest entry, and that: the solver's absolute tolerances then mean the
    same for every scale of tokens."""
    cost = _cost(V, C)
    size = float(cost.max())
    return cost / (size if size > 0 else 1.0), size


def _cost(V: Tensor, C: Tensor) -> Tensor:
    origin = V.mean(dim=0)
    return squared_distances(V - origin, C - origin)


def _thin(X: Tensor) -> Tensor:
    """A matrix of at most d rows with the same `X^T X`."""
    return torch.linalg.qr(X, mode="r").R if X.shape[0] > X.shape[1] else X
