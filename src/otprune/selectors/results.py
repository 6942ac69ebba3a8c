"""What a selector gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from otprune.errors import MissingDependencyError
from otprune.measures import distances
from otprune.measures.certificate import Certificate


class LazyTensor:
    """A tensor that is computed once, when it is first called for: `lazy()` is the tensor.

    What it is computed from is released then. Copies and pickles hold the tensor.
    """

    def __init__(self, value: Tensor | Callable[[], Tensor]) -> None:
        self._value = value

    def __call__(self) -> Tensor:
        value = self._value
        if not isinstance(value, Tensor):
            self._value = value = value()
        return value

    def __reduce__(self) -> tuple[type[LazyTensor], tuple[Tensor]]:
        return LazyTensor, (self(),)


class Reduction:
    """The kept tokens, ready for a language model; k of each, or (B, k) for a batch.

    Attributes:
        indices: `(k,)` int64, strictly ascending.
        masses: `(k,)` float32, the share of the full set that each token stands for; sums to 1.
            Worked out when first asked for, so do not write into the tokens before that.
        features: `(k, d)` in the tokens' dtype: the kept rows, or what they were merged to.
    """

    def __init__(
        self, indices: Tensor, masses: Tensor | LazyTensor | Callable[[], Tensor], features: Tensor
    ) -> None:
        self.indices = indices
        self.features = features
        self.lazy_masses = masses if isinstance(masses, LazyTensor) else LazyTensor(masses)

    @property
    def masses(self) -> Tensor:
        return self.lazy_masses()

    def unbind(self) -> list[Reduction]:
        """The reductions of a batch's rows; their masses are worked out at once for all."""
        masses = self.lazy_masses  # not self: a row's masses must not keep the features alive
        return [
            Reduction(indices, partial(_row, masses, b), features)
            for b, (indices, features) in enumerate(zip(self.indices, self.features, strict=True))
        ]


def _row(batch: LazyTensor, b: int) -> Tensor:
    return batch()[b]


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
        reached: with `keep` an `Auto`, the figure that its target is compared with; else None.
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
    reached: float | None
    gaussian_w2: float
    gaussian_w2_relative: float
    exact_w2: float | None
    exact_w2_relative: float | None
    free_mass_w2: float
    free_mass_w2_relative: float


def measured(
    tokens: Tensor,
    weights: Tensor | None,
    indices: Tensor,
    masses: Tensor,
    proof: Certificate | None,
    reached: float | None,
) -> Selection:
    """The `Selection` of one set: its distances, and what has been found out before.

    Args:
        tokens: `(m, d)` float64 on the CPU, as all others but `indices` and `masses`.
        weights: `(m,)` float64 of mean 1, or None.
        indices, masses, reached: as of `Selection`.
        proof: the method's certificate, or None.
    """
    kept = tokens[indices.cpu()]
    gaussian = distances.gaussian_w2(tokens, kept, full_mass=weights)
    free = distances.free_mass_w2(tokens, kept, full_mass=weights)
    try:
        exact = distances.exact_w2(tokens, kept, full_mass=weights)
    except MissingDependencyError:
        exact = None
    squares = tokens.square().sum(dim=-1)
    size = float((squares if weights is None else squares * weights).mean())
    relative = 1 / size if size > 0 else 0.0
    return Selection(
        indices=indices,
        masses=masses,
        value=None if proof is None else proof.value,
        bound=None if proof is None else proof.bound,
        certificate=None if proof is None else proof.ratio,
        reference=None if proof is None else proof.reference,
        reached=reached,
        gaussian_w2=gaussian,
        gaussian_w2_relative=gaussian * relative,
        exact_w2=exact,
        exact_w2_relative=None if exact is None else exact * relative,
        free_mass_w2=free,
        free_mass_w2_relative=free * relative,
    )
