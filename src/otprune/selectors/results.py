"""What a selector gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Reduction:
    """The kept tokens, ready for a language model; k of each, or (B, k) for a batch.

    Attributes:
        indices: `(k,)` int64, strictly ascending.
        masses: `(k,)` float32, the share of the full set that each token stands for; sums to 1.
        features: `(k, d)` in the tokens' dtype: the kept rows, or what they were merged to.
    """

    indices: Tensor
    masses: Tensor
    features: Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """What was kept of one set of tokens, and how good that is.

    Distances are squared 2-Wasserstein distances between the full set and the kept tokens as they
    are (raw token space, no merging), and `*_relative` the same divided by the mean squared norm
    of the full set's tokens (0 if that is 0). With weights the full set is weighted in all of them.

    Attributes:
        indices: `(k,)` int64, strictly ascending.
        masses: `(k,)` float32, see `Reduction`.
        value: of the kept set under the method's objective; None if it has no certificate.
        bound: no set of k tokens has a larger value.
        certificate: value / bound, a guarantee for this very set; 1 is optimal.
        reference: for `TransportPrune`, the cost of its best single token, from which value and
            bound are decreases; else None.
        gaussian_w2: between zero-mean Gaussians of equal second moments.
        exact_w2: between the point clouds, kept tokens of uniform mass; None without POT.
        free_mass_w2: between the point clouds, kept tokens of whatever mass suits best.
    """

    indices: Tensor
    masses: Tensor
    value: float | None
    bound: float | None
    certificate: float | None
    reference: float | None
    gaussian_w2: float
    gaussian_w2_relative: float
    exact_w2: float | None
    exact_w2_relative: float | None
    free_mass_w2: float
    free_mass_w2_relative: float
