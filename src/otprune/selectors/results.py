"""The results of a selector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from otprune.errors import MissingDependencyError
from otprune.measures import distances
from otprune.measures.certificate import Certificate


class LazyTensor:
    """A tensor that is computed once, on the first call: `lazy()` returns it.

    Its inputs are released afterwards. Copies and pickles contain the tensor.
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
    """The kept tokens of one set, `(k, ...)`, or of a batch, `(B, k, ...)`.

    Attributes:
        indices: `(k,)` int64, strictly ascending.
        masses: `(k,)` float32, the share of the full set that each token stands for; sums to 1.
            Computed when first read; do not change the tokens in place before that.
        features: `(k, d)` in the tokens' dtype: the kept tokens unchanged, or merged.
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
        """The reductions of a batch's sets; the masses of all are computed together."""
        masses = self.lazy_masses  # not self, so that masses do not keep the features alive
        return [
            Reduction(indices, partial(_row, masses, b), features)
            for b, (indices, features) in enumerate(zip(self.indices, self.features, strict=True))
        ]


def _row(batch: LazyTensor, b: int) -> Tensor:
    return batch()[b]


@dataclass(frozen=True, eq=False)
class Selection:
    """What was kept of one set of tokens, and how good that is.

    Distances are squared 2-Wasserstein distances between the full set and the kept tokens, without
    normalisation or merging. `*_relative` are the same divided by the mean squared norm of the full
    set's tokens (0 if that is 0). With weights, the full set is weighted in all of them.

    Attributes:
        indices: `(k,)` int64, strictly ascending.
        masses: `(k,)` float32, see `Reduction`.
        value: of the kept set under the method's objective; None if it has no certificate.
        bound: an upper bound on the value of any set of k tokens.
        certificate: value / bound, a guarantee for this set of tokens; 1 means optimal.
        reference: for `TransportPrune`, the cost of the best single token; value and bound are
            decreases from it. None for other methods.
        reached: if `keep` is an `Auto`, the value that is compared with its target; else None.
        gaussian_w2: between zero-mean Gaussians with the same second moments.
        exact_w2: between the point clouds, kept tokens with uniform mass; None without POT.
        free_mass_w2: between the point clouds, kept tokens with the optimal masses.
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
    features: Tensor | None = None,
) -> Selection:
    """The `Selection` of one set, with its distances computed here.

    Args:
        tokens: `(m, d)` float64 on the CPU.
        weights: `(m,)` float64 of mean 1 on the CPU, or None.
        indices, masses, reached: as in `Selection`, on any device.
        proof: the method's certificate, or None.
        features: `(k, d)` float64 on the CPU: those of the kept tokens, if not rows of `tokens`.
    """
    kept = tokens[indices.cpu()] if features is None else features
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
