"""The base class of all methods: a frozen dataclass that maps tokens to the indices to keep.

A call has four stages. `gate` checks the arguments. `picks.picked` converts tokens to float32. The
method picks tokens. The indices are sorted, and `merging` adds masses and merged features if asked
for. If `keep` is a rule, `adaptive` decides how many tokens to pick.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from otprune import keep as budget
from otprune.checks import check_finite
from otprune.errors import KeepError, SelectorError, TokenError
from otprune.keep import Auto, Keep
from otprune.measures.cells import Cells
from otprune.measures.certificate import Certificate
from otprune.measures.transport import Metric
from otprune.numerics.arrays import host_readable
from otprune.selectors import adaptive, batches, gate, merging
from otprune.selectors.batches import Batch
from otprune.selectors.cues import CUES, Cue, Cues
from otprune.selectors.picks import picked
from otprune.selectors.results import Reduction, Selection, measured


@dataclass(frozen=True)
class Selector(ABC):
    """Base class of all methods: chooses the tokens to keep, from the tokens and cues about them.

    A method implements `pick`; everything else is shared. Choices are computed in float32 whatever
    the tokens' dtype, without gradients. They are deterministic; ties go to the larger norm, then
    to the lower index. Your own method is a subclass, and works wherever a selector does:

        @dataclass(frozen=True)
        class First(otprune.Selector):
            def pick(self, tokens, k, cues):
                return torch.arange(k, device=tokens.device).expand(len(tokens), k)

    Attributes:
        keep: a ratio in (0, 1] as a float, or a number of tokens >= 1 as an int; `1.0` keeps
            everything, `1` keeps one token. Or a rule: "auto" or `Auto` for as many as an image
            needs, `Budget` for one total over several images.
        name: short name, the key in `METHODS`; not needed for your own methods.
        summary: one line for a table of methods; not needed for your own methods.
        uses: names of the fields of `Cues` that the method uses. Others are refused by hand, and
            not provided by engines. `__post_init__` may set it for one instance.
        needs: names of the fields that the method requires. A call without them is refused. They
            are added to `uses`. `__post_init__` may set it for one instance.
        certifies: whether `explain` gives a certificate.
        nested: whether the first k tokens of a longer run, in the order of picking, are those of a
            run for k. Rules then need one run to try every k; otherwise one for each.
        positional: whether the choice depends only on m and k, not on the tokens' values.
        merges: whether `merge=True` adds up tokens in a way of the method's own (`merge_weights`).
            Not inherited by a class with its own `pick`.
        checks_finite: whether `pick` itself raises TokenError for tokens that are not finite, if
            the host can read them (`numerics.arrays.host_readable`). They are then not checked
            beforehand. Not inherited by a class with its own `pick`.

    Raises:
        KeepError: `keep` is none of these, or needs a certificate that the method does not have.
        SelectorError: a subclass names a cue that does not exist.
    """

    keep: Keep

    name: ClassVar[str]
    summary: ClassVar[str]
    uses: ClassVar[frozenset[Cue]] = frozenset()
    needs: ClassVar[frozenset[Cue]] = frozenset()
    certifies: ClassVar[bool] = False
    nested: ClassVar[bool] = False
    positional: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    checks_finite: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "pick" in vars(cls):
            # What a parent class says of its own pick is not true of another one.
            for attribute in ("uses", "needs", "nested", "positional", "merges", "checks_finite"):
                if attribute not in vars(cls):
                    setattr(cls, attribute, getattr(Selector, attribute))
        for attribute in ("uses", "needs"):
            unknown = set(getattr(cls, attribute)) - set(CUES)
            if isinstance(getattr(cls, attribute), str) or unknown:
                raise SelectorError(
                    f"{cls.__name__}.{attribute} is {getattr(cls, attribute)!r}: expected a set of "
                    f"names out of {', '.join(CUES)}"
                )
        cls.needs = frozenset(cls.needs)
        cls.uses = frozenset(cls.uses) | cls.needs

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", gate.checked_keep(self))

    @property
    def assignment_metric(self) -> Metric:
        """The metric that assigns each token to its nearest kept one (masses, merging)."""
        return "cosine"

    @abstractmethod
    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        """The method itself: which k tokens of each of B sets of m tokens to keep.

        Call `select` or `reduce` instead, which check the arguments and the result. On a CPU B is
        1: sets are processed one by one, in several threads if there are many. Gradients and
        autocast are off.

        Args:
            tokens: `(B, m, d)` float32; finite, except for methods with `checks_finite`. Must not
                be changed in place.
            k: 1 <= k < m; `pick` is not called if all tokens are kept.
            cues: what else is known of the tokens, including everything in `needs`.

        Returns:
            `(B, k)` int64 on the tokens' device: indices in the order of picking, distinct in each
            set. Anything else raises SelectorError.
        """

    def merge_weights(self, tokens: Tensor, indices: Tensor, cues: Cues) -> Tensor:
        """What `merge=True` adds up for each kept token, for a method that `merges`.

        The feature of kept token j becomes `sum_i weights[j, i] tokens[i]`, computed in float32.
        Weights need not sum to 1. Masses are the same with any merging. Not called if all tokens
        are kept, which changes no feature.

        Args:
            tokens, cues: as for `pick`.
            indices: `(B, k)` ascending, the kept tokens, 1 <= k < m.

        Returns:
            `(B, k, m)` float32 on the tokens' device.
        """
        raise NotImplementedError(f"{type(self).__name__}.merges without merge_weights")

    def _certify(self, tokens: Tensor, order: Tensor, cues: Cues) -> Certificate | None:
        """The certificate for one set `(1, m, d)` and its kept tokens in order, `(k,)`.

        Tokens and cues are in float64, on the CPU.
        """
        return None

    def count(self, m: int) -> int:
        """Number of tokens kept of `m`; see `otprune.count`.

        Raises:
            KeepError: `keep` is a rule, so the number depends on the tokens.
        """
        return budget.count(self.keep, m)  # type: ignore[arg-type]

    def select(self, tokens: Any, weights: Any = None, cues: Cues | None = None) -> Tensor:
        """Indices of the tokens to keep, strictly ascending, int64, on the tokens' device.

        Args:
            tokens: `(m, d)` or `(B, m, d)`, any floating dtype; numpy arrays too.
            weights: how much each token counts in the full set, non-negative, shape
                `tokens.shape[:-1]`; only their ratios matter. None: all tokens count the same.
            cues: what else is known of the tokens. Its field `weights` may hold the weights.

        Returns:
            `(k,)` or `(B, k)` with `k = count(m)`. On a CPU the result for a batch is always that
            for its sets one by one, with any number of threads. On other devices, gains that are
            equal up to rounding may be ranked differently in a batch.

        Raises:
            TokenError: the tokens are not a finite floating array of that shape.
            WeightError: the weights do not fit, the method does not use any, or needs some.
            CueError: the same of another cue.
            KeepError: `keep` is a rule and the tokens are a batch, whose sets would keep different
                numbers: use `select_each`.
            SelectorError: your own method did not pick k distinct tokens.
        """
        batch = gate.admit(self, tokens, weights, cues)
        indices = self._order(batch).sort(dim=-1).values
        return indices if tokens.ndim == 3 else indices[0]

    def reduce(
        self, tokens: Any, merge: bool = False, weights: Any = None, cues: Cues | None = None
    ) -> Reduction:
        """The kept tokens with their masses, optionally merged with the tokens that they stand for.

        Every token is assigned to its nearest kept one in `assignment_metric`; a kept token to
        itself. With `merge`, a kept token's feature becomes the weighted mean of the tokens
        assigned to it (the barycentric projection of the free-mass transport plan), computed in
        float32 from the given features; a method that
        `merges` adds them up in its own way. Without, features are the kept rows unchanged, and the
        assignment is computed only when the masses are first read. Gradients flow into the
        features. Arguments and errors as for `select`.
        """
        batch = gate.admit(self, tokens, weights, cues)
        indices = self._order(batch).sort(dim=-1).values
        made = merging.reduction(batch, indices, self, merge)
        return made if tokens.ndim == 3 else made.unbind()[0]

    def select_each(
        self,
        sets: Iterable[Any],
        weights: Any = None,
        cues: Sequence[Cues | None] | None = None,
    ) -> list[Tensor]:
        """Indices of the tokens to keep of several sets, `(k_i,)` each, as `select` returns them.

        The sets may differ in size. If `keep` is a rule, they may also keep different numbers:
        `Auto` decides for each set separately, `Budget` divides its total among them.

        Args:
            sets: arrays `(m_i, d)`, or a batch `(B, m, d)`.
            weights: for each set `(m_i,)`, or None if its tokens all count the same.
            cues: for each set, or None.

        Raises:
            TokenError, CueError, WeightError, SelectorError: as for `select`.
            KeepError: the total of a `Budget` is less than the sum of its floors.
        """
        admitted = gate.admit_sets(self, sets, weights, cues)
        return [order.sort().values for order in self._orders(admitted)]

    def reduce_each(
        self,
        sets: Iterable[Any],
        merge: bool = False,
        weights: Any = None,
        cues: Sequence[Cues | None] | None = None,
    ) -> list[Reduction]:
        """`reduce` for several sets, with the tokens that `select_each` keeps."""
        admitted = gate.admit_sets(self, sets, weights, cues)
        kept = [order.sort().values.unsqueeze(0) for order in self._orders(admitted)]
        return [
            merging.reduction(batch, indices, self, merge).unbind()[0]
            for batch, indices in zip(admitted, kept, strict=True)
        ]

    def cells_each(
        self,
        sets: Iterable[Any],
        weights: Any = None,
        cues: Sequence[Cues | None] | None = None,
    ) -> list[Cells]:
        """The kept tokens of several sets, and the kept token that each token belongs to.

        Kept are the tokens that `select_each` keeps. Every token belongs to its nearest kept one in
        `assignment_metric`, as in `reduce`; a kept token to itself. Arguments and errors as for
        `select_each`.
        """
        admitted = gate.admit_sets(self, sets, weights, cues)
        metric, made = self.assignment_metric, []
        for batch, order in zip(admitted, self._orders(admitted), strict=True):
            m = batch.tokens.shape[1]
            if len(order) == m:
                made.append(Cells.whole(m, order.device))
            else:
                made += merging.cells(batch, order.sort().values.unsqueeze(0), metric)
        return made

    def explain(self, tokens: Any, weights: Any = None, cues: Cues | None = None) -> Selection:
        """What is kept of one set of tokens, `(m, d)`, and how good that is.

        This is much slower than `select`: certificate and distances are computed in float64 on the
        CPU, the exact distance by POT (None if that is not installed). Arguments and errors as for
        `select`.

        Raises:
            TokenError: also for a batch; call it for each set.
        """
        batch = gate.admit(self, tokens, weights, cues)
        if tokens.ndim != 2:
            raise TokenError(
                f"explain got tokens of shape {tuple(tokens.shape)}: expected one set, (m, d)"
            )
        if isinstance(self.keep, Auto):
            ((order, reached),) = adaptive.choose(self, [batch])
        else:
            order, reached = self._order(batch)[0], None
        indices = order.sort().values
        masses = merging.masses(batch, indices.unsqueeze(0), self.assignment_metric)[0]
        full = batch.tokens.detach().cpu().double()
        known = batch.cues.each(lambda x: x.cpu().double())
        proof = self._certify(full, order.cpu(), known)
        w = None if known.weights is None else known.weights[0]
        return measured(full[0], w, indices, masses, proof, reached)

    @torch.no_grad()
    def _order(self, batch: Batch) -> Tensor:
        """What is kept of each set of a batch, `(B, k)` in the order of picking."""
        sets, m, _ = batch.tokens.shape
        if not isinstance(self.keep, (float, int)):
            if sets > 1:
                raise KeepError(
                    f"keep={self.keep!r} keeps a different number of every set of a batch: use "
                    "select_each or reduce_each, which give a list"
                )
            return adaptive.choose(self, [batch])[0].order.unsqueeze(0)
        k = self.count(m)
        if k == m:
            return torch.arange(m, device=batch.tokens.device).repeat(sets, 1)
        try:
            return batches.alone(lambda part: picked(self, part, k), batch)
        except TokenError:
            check_finite(batch.tokens)  # which counts those of all sets
            raise

    def _orders(self, sets: Sequence[Batch]) -> list[Tensor]:
        """What is kept of each of several sets, `(k_i,)` in the order of picking."""
        if isinstance(self.keep, (float, int)):
            return self._orders_at_fixed_keep(sets)
        if len(set(map(batches.stack_key, sets))) == 1 and not host_readable(sets[0].tokens):
            sets = [batches.joined(sets)]
        return [choice.order for choice in adaptive.choose(self, sets)] if sets else []

    def _orders_at_fixed_keep(self, sets: Sequence[Batch]) -> list[Tensor]:
        """`_orders` where `keep` is a ratio or a number.

        On a CPU each set alone, elsewhere those of one size together.
        """
        if all(host_readable(one.tokens) for one in sets):
            size = max((one.tokens.numel() for one in sets), default=0)
            return batches.shared_out(lambda one: self._order(one)[0], sets, size)
        return batches.in_groups(
            map(batches.stack_key, sets),
            lambda places: self._order(batches.joined([sets[i] for i in places])),
        )
