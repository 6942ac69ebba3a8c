"""Products of matrices that are large, and some of whose structure is known."""

from __future__ import annotations

import torch
from torch import Tensor

from otprune import threads
from otprune.tokens import at_hand


def gram(x: Tensor, out: Tensor | None = None) -> Tensor:
    """`x x^T`, `(B, m, r)` to `(B, m, m)`.

    On a CPU little more than half of it is worked out (`threads.gram`). On a GPU a launch more
    would cost what a product less saves.
    """
    batch, m, _ = x.shape
    product = x.new_empty(batch, m, m) if out is None else out
    if not at_hand(x):
        return torch.bmm(x, x.mT, out=product)
    for one, room in zip(x, product, strict=True):
        threads.gram(one, one, out=room)
    return product
