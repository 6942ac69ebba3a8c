"""Novelty of a token beside those kept before: the objective for videos and streams.

With tokens at unit length, `X`, the value of a kept set is
`f(C) = logdet(I + X_C X_C^T / NOISE) = logdet(I + X_C^T X_C / NOISE)`: monotone and submodular. A
token's *novelty* is what the kept ones leave unexplained of it in ridge regression,
`e(x) = x^T (I + A / NOISE)^-1 x` with `A = X_C^T X_C`: 1 for a token at right angles to all, about
NOISE for a copy of a kept one. Its gain in f is `log(1 + e / NOISE)`.

Departures from OTPrune (arXiv 2602.20205), whose kernel has columns at unit length over the full
set and that set's second moments in the middle: neither is known before the last frame, and with
them a direction counts by the number of tokens that lie in it, so that something small and new is
easily missed. Rows at unit length need the token alone. (The determinantal point process of
`DPPPrune`, with a noise that video frames do have.)
"""

from __future__ import annotations

import torch
from torch import Tensor

# Variance of noise: neighbouring frames of a still scene differ by about so much.
NOISE = 0.01


def value(points: Tensor) -> float:
    """f of a kept set, in nats, from its tokens at unit length, `(k, d)`; 0.0 if there is none."""
    x = points.double()
    gram = x @ x.mT if x.shape[0] < x.shape[1] else x.mT @ x
    gram = gram / NOISE
    gram.diagonal().add_(1)
    return float(torch.linalg.slogdet(gram).logabsdet)


class Sketch:
    """`A = X_C^T X_C` of ever more kept tokens as `rows^T rows`, in bounded memory.

    Frequent directions (Liberty, KDD 2013; Ghashami, Liberty, Phillips and Woodruff, SICOMP 2016):
    when there are more rows than `most`, the spectrum is lowered by its `rank + 1`-th value, and
    what is left fits into `rank` rows. So `0 <= A - rows^T rows <= lost I`: novelty may be
    overestimated, never underestimated, and with `rank >= d` it is exact.

    Attributes:
        rows: `(n, d)` float32, n <= most between calls.
        gram: `(n, n)`, `rows rows^T`.
        lost: sum of what the spectrum was lowered by, with forgetting.
    """

    def __init__(self, rank: int, rows: Tensor, gram: Tensor, lost: float = 0.0) -> None:
        self.rank, self.rows, self.gram, self.lost = rank, rows, gram, lost
        # A quarter more than rank, since lowering costs O(most^3) and should be rare.
        self.most = rank + rank // 4

    def to(self, device: torch.device) -> None:
        """Move to where the tokens are (a state may have been loaded elsewhere)."""
        self.rows, self.gram = self.rows.to(device), self.gram.to(device)

    def forget(self, share: float) -> None:
        """Scale A by a factor in (0, 1]."""
        self.rows = self.rows * share**0.5
        self.gram = self.gram * share
        self.lost *= share

    def explain(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Products with the rows, `(n, m)`, and the same whitened, so that
        `e_i = |x_i|^2 - |whitened_i|^2`."""
        products = self.rows @ points.mT
        noisy = self.gram.clone()
        noisy.diagonal().add_(NOISE)
        root = torch.linalg.cholesky(noisy)
        return products, torch.linalg.solve_triangular(root, products, upper=False)

    def add(self, points: Tensor, products: Tensor) -> None:
        """Add kept tokens, `(p, d)`, with their products with the rows, `(n, p)`."""
        below = torch.cat([products.mT, points @ points.mT], dim=1)
        self.gram = torch.cat([torch.cat([self.gram, products], dim=1), below])
        self.rows = torch.cat([self.rows, points])
        if self.rows.shape[0] > self.most:
            self._shrink()

    def remove(self, points: Tensor) -> None:
        """Take back tokens that were added, `(p, d)`: `A` without them.

        With `C` the least-squares coefficients of the points in the rows, `A - X^T X` is
        `rows^T (I - C C^T) rows` up to what the rows do not hold. Where the sketch holds less of
        the points than they are (it was lowered, or their like was removed before), nothing below
        zero is left.
        """
        if not len(self.rows) or not len(points):
            return
        # Directions in which rows repeat each other up to rounding are not told apart.
        inverse = torch.linalg.pinv(self.gram.double(), atol=1e-4, hermitian=True)
        share = (inverse @ (self.rows @ points.mT).double()).float()
        left = -share @ share.mT
        left.diagonal().add_(1)
        spectrum, vectors = torch.linalg.eigh(left)
        self.rows = (vectors * spectrum.clamp(min=0).sqrt()) @ (vectors.mT @ self.rows)
        self.gram = self.rows @ self.rows.mT
        some = self.gram.diagonal() > 1e-6  # rows that are gone
        self.rows, self.gram = self.rows[some], self.gram[some][:, some]

    def _shrink(self) -> None:
        spectrum, vectors = torch.linalg.eigh(self.gram)
        spectrum, vectors = spectrum.flip(0).clamp(min=0), vectors.flip(1)
        by, top = spectrum[self.rank], spectrum[: self.rank]
        scale = torch.where(top > 0, (top - by) / top, 0.0).clamp(min=0).sqrt()
        self.rows = (vectors[:, : self.rank] * scale).mT @ self.rows
        self.gram = self.rows @ self.rows.mT
        self.lost += float(by)
