"""What every method is: a frozen dataclass that turns tokens into the indices of those to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from otprune import keep as budget
from otprune.checks import check_finite, check_shape, check_tokens, check_weights
from otprune.errors import KeepError, MissingDependencyError, TokenError, WeightError
from otprune.keep import Auto, Keep
from otprune.measures import distances, transport
from otprune.measures.certificate import Certificate
from otprune.measures.transport import Metric
from otprune.numerics.arrays import host_readable
from otprune.selectors import adaptive, batches
from otprune.selectors.batches import Batch
from otprune.selectors.picks import check_picks
from otprune.selectors.results import Lazy, Reduction, Selection


@dataclass(frozen=True)
class Selector(ABC):
    """Base of all methods: which tokens to keep, decided from the tokens alone.

    A method implements `_pick`; everything else is the same for all. Computed in float32 whatever
    the tokens' dtype, without gradients; deterministic; ties go to the larger norm, then to the
    lower index.

    Attributes:
        keep: a ratio in (0, 1] as a float, or a number of tokens >= 1 as an int; `1.0` keeps
            everything, `1` keeps one token. Or a rule: "auto" or `Auto` for as many as an image
            needs, `Budget` for one total over several images.
        name: short name, the key in `METHODS`.
        summary: one line for a table of methods.
        takes_weights: whether weights have a meaning for the method.
        certifies: whether `explain` gives a certificate.
        nested: whether k tokens are the first k of any longer run, in the order of picking. If so,
            rules need one run to see every k; if not, one for each.
        looks: whether `_pick` refuses tokens that are not finite by itself if they are at hand
            (`tokens.host_readable`), so that nobody needs to look before.

    Raises:
        KeepError: `keep` is none of these, or asks for a certificate that the method has not.
    """

    keep: Keep

    name: ClassVar[str]
    summary: ClassVar[str]
    takes_weights: ClassVar[bool] = False
    certifies: ClassVar[bool] = False
    nested: ClassVar[bool] = False
    looks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        keep = budget.check_rule(self.keep)
        if isinstance(keep, Auto) and keep.measure == "certificate" and not self.certifies:
            raise KeepError(
                f"{type(self).__name__} has no certificate: use measure='distance', or one of "
                f"{', '.join(_names(lambda c: c.certifies))}"
            )
        object.__setattr__(self, "keep", keep)

    @property
    def assignment(self) -> Metric:
        """The metric in which tokens go to their nearest kept one (masses, merging)."""
        return "cosine"

    @abstractmethod
    def _pick(self, tokens: Tensor, k: int, weights: Tensor | None) -> Tensor:
        """Indices in the order they were picked, `(B, k)` int64, distinct in every row.

        On a CPU B is 1: sets are picked from one by one, in several threads if there are many.

        Args:
            tokens: `(B, m, d)` float32, finite but for methods that look by themselves.
            k: 1 <= k < m.
            weights: `(B, m)` float32 of mean 1, or None.
        """

    def _certify(self, tokens: Tensor, order: Tensor, weights: Tensor | None) -> Certificate | None:
        """What can be proved about one set, `(m, d)` float64, kept in `order`, `(k,)`."""
        return None

    def count(self, m: int) -> int:
        """Number of tokens kept of `m`; see `otprune.count`.

        Raises:
            KeepError: `keep` is a rule, so that no number is known before the tokens are.
        """
        return budget.count(self.keep, m)  # type: ignore[arg-type]

    def select(self, tokens: Any, weights: Any = None) -> Tensor:
        """Indices of the tokens to keep, strictly ascending, int64, on the tokens' device.

        Args:
            tokens: `(m, d)` or `(B, m, d)`, any floating dtype; numpy arrays too.
            weights: how much each token counts in the full set, non-negative, shape
                `tokens.shape[:-1]`; only their ratios matter. None counts all alike.

        Returns:
            `(k,)` or `(B, k)` with `k = count(m)`; a batch gives what its rows give one by one: on
            a CPU always, and with any number of threads. Elsewhere but for gains that are equal up
            to rounding, which depends on the batch there.

        Raises:
            TokenError: the tokens are not a finite floating array of that shape.
            WeightError: the weights do not fit, or the method has no meaning for weights.
            KeepError: a batch, and `keep` is a rule: its rows would keep different numbers, which
                `select_each` gives.
            SelectorError: the method, one of your own, did not pick k distinct tokens.
        """
        tokens = self._checked(tokens)
        order = self._order(_batched(tokens), self._weights(tokens, weights))
        indices = order.sort(dim=-1).values
        return indices if tokens.ndim == 3 else indices[0]

    def reduce(self, tokens: Any, merge: bool = False, weights: Any = None) -> Reduction:
        """The kept tokens with their masses, merged with what they stand for if asked.

        Every token belongs to its nearest kept one in the metric `assignment`; a kept token to
        itself. With `merge`, a kept token's feature becomes the mass-weighted mean of the tokens
        that belong to it (the barycentric projection of the free-mass transport plan), computed
        in float32 from the features as given; without, features are the kept rows untouched, and
        who belongs to whom is worked out only if the masses are asked for.
        Gradients flow into the features. Arguments and errors as for `select`.
        """
        tokens = self._checked(tokens)
        batch, w = _batched(tokens), self._weights(tokens, weights)
        indices = self._order(batch, w).sort(dim=-1).values
        made = self._reduction(batch, indices, w, merge)
        return made if tokens.ndim == 3 else made.unbind()[0]

    def select_each(self, sets: Iterable[Any], weights: Any = None) -> list[Tensor]:
        """Indices of the tokens to keep of several sets, `(k_i,)` each, as `select` gives them.

        The sets may differ in size, and with `keep` a rule in what they keep: `Auto` settles each
        by itself, `Budget` shares its total out among them.

        Args:
            sets: arrays `(m_i, d)`, or a batch `(B, m, d)`.
            weights: for each set, `(m_i,)`; None counts all tokens alike.

        Raises:
            TokenError, WeightError: as for `select`.
            KeepError: the total of a `Budget` is less than its floors take.
        """
        return [order.sort().values for order in self._order_each(self._sets(sets, weights))]

    def reduce_each(
        self, sets: Iterable[Any], merge: bool = False, weights: Any = None
    ) -> list[Reduction]:
        """What `reduce` gives for several sets, kept as `select_each` says."""
        rows = self._sets(sets, weights)
        return [
            self._reduction(batch, order.sort().values.unsqueeze(0), w, merge).unbind()[0]
            for (batch, w), order in zip(rows, self._order_each(rows), strict=True)
        ]

    def _reduction(
        self, batch: Tensor, indices: Tensor, w: Tensor | None, merge: bool
    ) -> Reduction:
        features = batch.gather(1, indices.unsqueeze(-1).expand(-1, -1, batch.shape[-1]))
        if merge:
            plan = self._plan(batch, indices, w)
            masses = Lazy(plan.sum(dim=-1))
            features = _merged(batch, plan, features)
        else:
            full = batch.detach()  # without their graph, which would live as long as the masses
            masses = Lazy(lambda: self._plan(full, indices, w).sum(dim=-1))
        return Reduction(indices, masses, features)

    def explain(self, tokens: Any, weights: Any = None) -> Selection:
        """What is kept of one set of tokens, `(m, d)`, and how good that is.

        Unlike `select` this takes its time: certificate and distances are computed in float64 on
        the CPU, the exact distance by POT (None if that is not installed). Arguments and errors
        as for `select`.

        Raises:
            TokenError: also for a batch; explain its rows one by one.
        """
        tokens = check_tokens(tokens)
        if tokens.ndim != 2:
            raise TokenError(
                f"explain got tokens of shape {tuple(tokens.shape)}: expected one set, (m, d)"
            )
        batch, w = tokens.unsqueeze(0), self._weights(tokens, weights)
        reached = None
        if isinstance(self.keep, Auto):
            ((chosen, reached),) = adaptive.choose(self, [Batch(batch, w)])
            order = chosen.unsqueeze(0)
        else:
            order = self._order(batch, w)
        indices = order.sort(dim=-1).values
        masses = self._plan(batch, indices, w)[0].sum(dim=-1)

        full = tokens.detach().cpu().double()
        kept = full[indices[0].cpu()]
        v = None if w is None else w[0].cpu().double()
        proof = self._certify(full, order[0].cpu(), v)
        gaussian = distances.gaussian_w2(full, kept, full_mass=v)
        free = distances.free_mass_w2(full, kept, full_mass=v)
        try:
            exact = distances.exact_w2(full, kept, full_mass=v)
        except MissingDependencyError:
            exact = None
        squares = full.square().sum(dim=-1)
        size = float((squares if v is None else squares * v).mean())
        per = 1 / size if size > 0 else 0.0
        return Selection(
            indices=indices[0],
            masses=masses,
            value=None if proof is None else proof.value,
            bound=None if proof is None else proof.bound,
            certificate=None if proof is None else proof.ratio,
            reference=None if proof is None else proof.reference,
            reached=reached,
            gaussian_w2=gaussian,
            gaussian_w2_relative=gaussian * per,
            exact_w2=exact,
            exact_w2_relative=None if exact is None else exact * per,
            free_mass_w2=free,
            free_mass_w2_relative=free * per,
        )

    def _checked(self, tokens: Any) -> Tensor:
        """`check_tokens`, but for the look that `_pick` will take: not where nothing is picked."""
        checked = check_shape(tokens)
        m = checked.shape[-2]
        picks = isinstance(self.keep, (float, int)) and self.count(m) < m
        if not (self.looks and picks and host_readable(checked)):
            check_finite(checked)
        return checked

    def _weights(self, tokens: Tensor, weights: Any) -> Tensor | None:
        if weights is None:
            return None
        if not self.takes_weights:
            raise WeightError(
                f"{type(self).__name__} has no meaning for weights: "
                f"leave them out, or use {', '.join(_names(lambda c: c.takes_weights))}"
            )
        checked = check_weights(weights, tuple(tokens.shape[:-1])).float().to(tokens.device)
        return checked if tokens.ndim == 3 else checked.unsqueeze(0)

    def _sets(self, sets: Iterable[Any], weights: Any) -> list[Batch]:
        """Each set as a batch of its own."""
        tokens = [self._checked(x) for x in sets]
        for x in tokens:
            if x.ndim != 2:
                raise TokenError(f"a set of tokens has shape {tuple(x.shape)}: expected (m, d)")
        each = [None] * len(tokens) if weights is None else list(weights)
        if len(each) != len(tokens):
            raise WeightError(f"weights for {len(each)} sets, and there are {len(tokens)}")
        return [
            Batch(x.unsqueeze(0), self._weights(x, w)) for x, w in zip(tokens, each, strict=True)
        ]

    @torch.no_grad()
    def _order(self, tokens: Tensor, weights: Tensor | None) -> Tensor:
        batch, m, _ = tokens.shape
        if not isinstance(self.keep, (float, int)):
            if batch > 1:
                raise KeepError(
                    f"keep={self.keep!r} keeps a different number in every row of a batch: use "
                    "select_each or reduce_each, which give a list"
                )
            return adaptive.choose(self, [Batch(tokens, weights)])[0].order.unsqueeze(0)
        k = self.count(m)
        if k == m:
            return torch.arange(m, device=tokens.device).repeat(batch, 1)
        try:
            return batches.alone(lambda x, w: self._picks(x, k, w), tokens, weights)
        except TokenError:
            check_finite(tokens)  # which counts those of all sets
            raise

    def _picks(self, tokens: Tensor, k: int, weights: Tensor | None) -> Tensor:
        """What `_pick` says, checked."""
        # Under a caller's autocast, matrix products would silently run in half precision.
        with torch.autocast(tokens.device.type, enabled=False):
            order = self._pick(tokens.float(), k, weights)
        return check_picks(type(self), order, len(tokens), tokens.shape[1], k)

    def _order_each(self, sets: list[Batch]) -> list[Tensor]:
        """What is kept of each set, `(k_i,)` in the order of picking."""
        if isinstance(self.keep, (float, int)):
            return self._order_counted(sets)
        if len({batches.shape(one) for one in sets}) == 1 and not host_readable(sets[0].tokens):
            sets = [batches.joined(sets)]
        return [choice.order for choice in adaptive.choose(self, sets)] if sets else []

    def _order_counted(self, sets: list[Batch]) -> list[Tensor]:
        """`_order_each` where sizes say how many tokens are kept: sets of one size together, but
        each alone on a CPU."""
        if all(host_readable(one.tokens) for one in sets):
            size = max((one.tokens.numel() for one in sets), default=0)
            return batches.shared_out(lambda one: self._order(*one)[0], sets, size)
        return batches.in_groups(
            sets, batches.shape, lambda group: self._order(*batches.joined(group))
        )

    @torch.no_grad()
    def _plan(self, tokens: Tensor, indices: Tensor, weights: Tensor | None) -> Tensor:
        def plan(x: Tensor, kept: Tensor, w: Tensor | None) -> Tensor:
            with torch.autocast(x.device.type, enabled=False):
                return transport.free_plan(x.float(), kept, self.assignment, w)

        return batches.alone(plan, tokens, indices, weights)


def _batched(tokens: Tensor) -> Tensor:
    return tokens if tokens.ndim == 3 else tokens.unsqueeze(0)


def _names(able: Callable[[type[Selector]], bool]) -> list[str]:
    return sorted(c.__name__ for c in Selector.__subclasses__() if able(c))


def _merged(tokens: Tensor, plan: Tensor, kept: Tensor) -> Tensor:
    masses = plan.sum(dim=-1, keepdim=True)
    share = plan / torch.where(masses > 0, masses, 1.0)
    with torch.autocast(tokens.device.type, enabled=False):
        means = (share @ tokens.float()).to(tokens.dtype)
    # A kept token whose tokens weigh nothing keeps its feature.
    return torch.where(masses > 0, means, kept)
