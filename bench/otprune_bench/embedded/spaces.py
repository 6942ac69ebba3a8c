"""Distances between all tokens and the kept ones, in several normalisations of the tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.errors import MissingDependencyError
from otprune.measures.distances import exact_w2, free_mass_w2, gaussian_w2
from otprune.numerics.normalize import unit_columns, unit_rows

SPACES = ("raw", "columns", "rows", "centred")
DISTANCES = ("gaussian", "exact", "free mass")
# Exact and free-mass distances do not depend on the origin: centred, they equal raw.
NAMES = tuple(f"{d} {s}" for d in DISTANCES for s in SPACES if s != "centred" or d == "gaussian")


def measure(tokens: Tensor, indices: Tensor) -> dict[str, float | None]:
    """All of `NAMES` for one image: squared, divided by the space's mean squared token norm.

    "raw" is the tokens as they are; "columns" every feature at length one over the full set, as in
    OTPrune; "rows" every token at length one; "centred" the Gaussian distance with means and
    covariances. "gaussian" and "exact" give kept tokens equal mass, "free mass" whatever suits
    them best. Exact ones are None without POT.

    Args:
        tokens: `(m, d)` floating.
        indices: `(k,)` kept ones.
    """
    full = tokens.double()
    normalised = {
        "raw": full,
        "columns": unit_columns(full[None])[0],
        "rows": unit_rows(full[None])[0],
    }
    found: dict[str, float | None] = {}
    for space, points in normalised.items():
        kept, size = points[indices], _size(points)
        found[f"gaussian {space}"] = gaussian_w2(points, kept) / size
        try:
            found[f"exact {space}"] = exact_w2(points, kept) / size
        except MissingDependencyError:
            found[f"exact {space}"] = None
        found[f"free mass {space}"] = free_mass_w2(points, kept) / size
    spread = _size(full - full.mean(0))
    found["gaussian centred"] = gaussian_w2(full, full[indices], centered=True) / spread
    return {name: found[name] for name in NAMES}


def _size(points: Tensor) -> float:
    return max(float(points.square().sum(-1).mean()), torch.finfo(torch.float64).tiny)
