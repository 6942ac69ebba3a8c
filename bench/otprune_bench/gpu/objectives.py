"""What a kept set is worth to its method, in float64 on the CPU: how near a near tie is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otprune.measures import transport
from otprune.numerics.distances import pairwise
from otprune.numerics.normalize import damped_columns, norms, unit_rows
from otprune.selectors import Cues, DivPrune, DPPPrune, HerdingPrune, NormPrune, SimplexPrune
from otprune.selectors.dpp import JITTER


def value(selector: Any, tokens: Tensor, kept: Tensor, cues: Cues) -> float | None:
    """The objective of a kept set; None where a method has none, so that no set equals another.

    Args:
        tokens: `(m, d)` float64 on the CPU.
        kept: `(k,)`.
        cues: as `pick` gets them, of a batch of one, in float64.
    """
    x = tokens.unsqueeze(0)
    if selector.certifies:
        return float(selector._certify(x, kept, cues).value)
    if isinstance(selector, (DPPPrune, SimplexPrune)):
        return _log_volume(selector, x, kept, cues)
    if isinstance(selector, DivPrune):
        points = unit_rows(x)[0, kept]
        apart = 1 - points @ points.mT
        return float((apart + 2 * torch.eye(len(kept), dtype=apart.dtype)).min())
    if isinstance(selector, HerdingPrune):
        return _discrepancy(x, kept)
    if isinstance(selector, NormPrune):
        return float(norms(x)[0, kept].sum())
    return None


def _log_volume(selector: Any, x: Tensor, kept: Tensor, cues: Cues) -> float:
    """Of `DPPPrune` and `SimplexPrune`: log-determinant of the kept tokens' kernel."""
    mass = selector.mass(x, cues)
    if isinstance(selector, SimplexPrune):
        x = unit_rows(damped_columns(x, selector.damping))
        x = torch.cat([x, (x != 0).any(dim=-1, keepdim=True).to(x.dtype)], dim=-1)
    else:
        x = unit_rows(x)
    if mass is not None:
        x = x * mass.sqrt().unsqueeze(-1)
    block = x[0, kept] @ x[0, kept].mT
    block.diagonal().add_(JITTER)
    return float(torch.linalg.slogdet(block).logabsdet)


def _discrepancy(x: Tensor, kept: Tensor) -> float:
    """Of `HerdingPrune`: squared distance of the kernel means of the kept and of all tokens."""
    distance = pairwise(transport.embed(x, "euclidean"))[0]
    kernel = (-distance / distance.median()).exp()
    return float(kernel.mean() - 2 * kernel[kept].mean() + kernel[kept][:, kept].mean())
