"""What every method is: a frozen dataclass that turns tokens into the indices of those to keep.

One call goes through four stages, each in a module of its own: the arguments are checked (`gate`),
tokens become float32 (`picks.picked`), the method picks, and what is kept is put into order, with
its masses and merged features if asked for (`merging`). Where `keep` is a rule, `adaptive` asks for
picks until the rule is content.
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
    """Base of all methods: which tokens to keep, decided from the tokens and what is known of them.

    A method implements `pick`; everything else is the same for all. Computed in float32 whatever
    the tokens' dtype, without gradients; deterministic; ties go to the larger norm, then to the
    lower index. A method of your own is a subclass, and works wherever a selector does:

        @dataclass(frozen=True)
        class First(otprune.Selector):
            def pick(self, tokens, k, cues):
                return torch.arange(k, device=tokens.device).expand(len(tokens), k)

    Attributes:
        keep: a ratio in (0, 1] as a float, or a number of tokens >= 1 as an int; `1.0` keeps
            everything, `1` keeps one token. Or a rule: "auto" or `Auto` for as many as an image
            needs, `Budget` for one total over several images.
        name: short name, the key in `METHODS`; methods of your own need none.
        summary: one line for a table of methods; likewise.
        uses: names of the fields of `Cues` that have a meaning for the method; weights given to
            one that does not use them are refused.
        needs: those that it cannot pick without; a call without them is refused. They count as
            used.
        certifies: whether `explain` gives a certificate.
        nested: whether k tokens are the first k of any longer run, in the order of picking. If so,
            rules need one run to see every k; if not, one for each.
        positional: whether the choice depends on m and k alone, and not on what the tokens hold.
        checks_finite: whether `pick` raises TokenError for tokens that are not finite where the
            host can read them (`numerics.arrays.host_readable`), so that no check comes before it.

    Raises:
        KeepError: `keep` is none of these, or asks for a certificate that the method has not.
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
    checks_finite: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
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
        keep = budget.check_rule(self.keep)
        if isinstance(keep, Auto) and keep.measure == "certificate" and not self.certifies:
            from otprune.selectors.registry import METHODS  # which imports every method

            able = sorted(cls.__name__ for cls in METHODS.values() if cls.certifies)
            raise KeepError(
                f"{type(self).__name__} has no certificate: use measure='distance', or one of "
                f"{', '.join(able)}"
            )
        object.__setattr__(self, "keep", keep)

    @property
    def assignment_metric(self) -> Metric:
        """The metric in which tokens go to their nearest kept one (masses, merging)."""
        return "cosine"

    @abstractmethod
    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        """The method itself: which k tokens of each of B sets of m to keep.

        Called by `select` and its like, which check the arguments before and the result after; call
        those instead. On a CPU B is 1: sets are picked from one by one, in several threads if there
        are many. Gradients are off, and so is autocast.

        Args:
            tokens: `(B, m, d)` float32, finite, but for methods with `checks_finite`; not to be
                written into.
            k: 1 <= k < m; where all are kept, nothing is asked.
            cues: what else is known of the tokens; those in `needs` are there.

        Returns:
            `(B, k)` int64 on the tokens' device: places in the order of picking, distinct in every
            row. Anything else is refused with a SelectorError.
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
            `(k,)` or `(B, k)` with `k = count(m)`. A batch gives what its rows give one by one: on
            a CPU always, and with any number of threads. On other devices gains that are equal up
            to rounding may be told apart by the batch.

        Raises:
            TokenError: the tokens are not a finite floating array of that shape.
            WeightError: the weights do not fit, the method does not use any, or needs some.
            UnsupportedError: the method needs another cue.
            KeepError: a batch, and `keep` is a rule: its rows would keep different numbers, which
                `select_each` gives.
            SelectorError: the method, one of your own, did not pick k distinct tokens.
        """
        batch = gate.admit(self, tokens, weights)
        indices = self._order(batch).sort(dim=-1).values
        return indices if tokens.ndim == 3 else indices[0]

    def reduce(self, tokens: Any, merge: bool = False, weights: Any = None) -> Reduction:
        """The kept tokens with their masses, merged with what they stand for if asked.

        Every token belongs to its nearest kept one in `assignment_metric`; a kept token to itself.
        With `merge`, a kept token's feature becomes the mass-weighted mean of the tokens that
        belong to it (the barycentric projection of the free-mass transport plan), computed in
        float32 from the features as given; without, features are the kept rows untouched, and who
        belongs to whom is worked out only if the masses are asked for.
        Gradients flow into the features. Arguments and errors as for `select`.
        """
        batch = gate.admit(self, tokens, weights)
        indices = self._order(batch).sort(dim=-1).values
        made = merging.reduction(batch, indices, self.assignment_metric, merge)
        return made if tokens.ndim == 3 else made.unbind()[0]

    def select_each(self, sets: Iterable[Any], weights: Any = None) -> list[Tensor]:
        """Indices of the tokens to keep of several sets, `(k_i,)` each, as `select` gives them.

        The sets may differ in size, and with `keep` a rule in what they keep: `Auto` settles each
        by itself, `Budget` shares its total out among them.

        Args:
            sets: arrays `(m_i, d)`, or a batch `(B, m, d)`.
            weights: for each set `(m_i,)`, or None, which counts its tokens alike.

        Raises:
            TokenError, WeightError, UnsupportedError, SelectorError: as for `select`.
            KeepError: the total of a `Budget` is less than its floors take.
        """
        admitted = gate.admit_sets(self, sets, weights)
        return [order.sort().values for order in self._orders(admitted)]

    def reduce_each(
        self, sets: Iterable[Any], merge: bool = False, weights: Any = None
    ) -> list[Reduction]:
        """What `reduce` gives for several sets, kept as `select_each` says."""
        admitted = gate.admit_sets(self, sets, weights)
        kept = [order.sort().values.unsqueeze(0) for order in self._orders(admitted)]
        metric = self.assignment_metric
        return [
            merging.reduction(batch, indices, metric, merge).unbind()[0]
            for batch, indices in zip(admitted, kept, strict=True)
        ]

    def explain(self, tokens: Any, weights: Any = None) -> Selection:
        """What is kept of one set of tokens, `(m, d)`, and how good that is.

        Unlike `select` this takes its time: certificate and distances are computed in float64 on
        the CPU, the exact distance by POT (None if that is not installed). Arguments and errors
        as for `select`.

        Raises:
            TokenError: also for a batch; explain its rows one by one.
        """
        batch = gate.admit(self, tokens, weights)
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
        full, w = batch.tokens[0].detach().cpu().double(), batch.cues.weights
        w = None if w is None else w[0].cpu().double()
        proof = self._certify(full, order.cpu(), w)
        return measured(full, w, indices, masses, proof, reached)

    @torch.no_grad()
    def _order(self, batch: Batch) -> Tensor:
        """What is kept of each set of a batch, `(B, k)` in the order of picking."""
        sets, m, _ = batch.tokens.shape
        if not isinstance(self.keep, (float, int)):
            if sets > 1:
                raise KeepError(
                    f"keep={self.keep!r} keeps a different number in every row of a batch: use "
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
