"""A request and what it costs: with every visual token, with the kept ones, with none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from otprune.engines.common.stage import EncoderStage
from otprune.errors import OTPruneError
from otprune.planning.costs import Language, kept
from otprune.planning.selection import selection_flops
from otprune.planning.sizes import Encoding
from otprune.selectors import Selector, by_name
from otprune.selectors.preset import Pruning

Method = str | type[Selector] | Selector | Pruning


@dataclass(frozen=True)
class Rates:
    """What a machine achieves, as measured by its user: not what its data sheet promises.

    Attributes:
        flops: operations a second in large matrix products (encoder, prefill).
        bandwidth: bytes a second read from memory while decoding.

    Raises:
        OTPruneError: one is no number above 0.
    """

    flops: float
    bandwidth: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise OTPruneError(f"{name}={value!r}: expected a number above 0")


@dataclass(frozen=True)
class Costs:
    """One way of answering a request.

    Attributes:
        visual_tokens: visual tokens that the language model sees.
        prompt_tokens: all tokens of its prompt.
        encoder, selection, prefill, decode: operations (FLOPs); a multiplication and the addition
            after it are two. `decode` is of the answer's tokens behind the first, which the prefill
            gives.
        cache_bytes: keys and values of the prompt and the answer, when it ends.
        read_bytes: bytes that decoding reads: weights and cache, once a token.
    """

    visual_tokens: int
    prompt_tokens: int
    encoder: int
    selection: int
    prefill: int
    decode: int
    cache_bytes: int
    read_bytes: int

    @property
    def first_token(self) -> int:
        """Operations up to the first token."""
        return self.encoder + self.selection + self.prefill

    @property
    def answer(self) -> int:
        """Operations of the whole answer."""
        return self.first_token + self.decode

    def first_token_seconds(self, rates: Rates) -> float:
        """Time to the first token if the operations run at that rate."""
        return self.first_token / rates.flops

    def decode_seconds(self, rates: Rates) -> float:
        """Time of the tokens behind the first if reading memory is what takes it."""
        return self.read_bytes / rates.bandwidth


@dataclass(frozen=True)
class AtAnyKeep:
    """A method at any keep.

    selector: the method, keeping something.
    assigns: whether each token is assigned to a kept one, as merging and masses need.
    """

    selector: Selector
    assigns: bool

    @classmethod
    def of(cls, given: Method) -> AtAnyKeep:
        if isinstance(given, str):
            given = by_name(given, 0.1, own=True)
        if isinstance(given, Mapping):
            return cls(given["selector"], given["merge"] or given["mass"] != "none")
        return cls(given(0.1) if isinstance(given, type) else given, False)

    def at(self, keep: float | int) -> Selector:
        """It, keeping so many tokens."""
        return replace(self.selector, keep=keep)


@dataclass(frozen=True)
class Request:
    """A request, of which visual tokens may be left out.

    language: sizes of the language model.
    encoding: its images, encoded, with `stage` and without.
    other: tokens of the prompt that are not visual.
    answer: tokens of the answer.
    """

    language: Language
    encoding: Encoding
    stage: EncoderStage | None
    method: AtAnyKeep
    other: int
    answer: int

    @property
    def tokens(self) -> list[int]:
        """Visual tokens of each image."""
        return [len(one.features) for one in self.encoding.tokens]

    def before(self) -> Costs:
        """With every token."""
        return self._costs(sum(self.tokens), self.encoding.flops, 0)

    def after(self, selector: Selector) -> Costs:
        """With the tokens that stay."""
        visual = kept(selector.keep, self.tokens)  # type: ignore[arg-type]
        return self._costs(visual, self._encoder, self.selection(selector)[0])

    def least(self) -> Costs:
        """Without visual tokens, and without what selects among them in front of the prefill."""
        return self._costs(0, self._encoder, self.selection(None)[0])

    def selection(self, selector: Selector | None) -> tuple[int, bool]:
        """Operations of all selections, and whether they were counted; None: inside the encoder."""
        work: list[tuple[int, bool]] = []
        if self.stage is not None:
            for one, n in Counter(self.encoding.sets).items():
                flops, exact = selection_flops(self.stage.method, *one, assigns=True)
                work.append((n * flops, exact))
        if selector is not None:
            d = self.encoding.tokens[0].features.shape[-1]
            for m, n in Counter(self.tokens).items():
                flops, exact = selection_flops(selector, m, d, assigns=self.method.assigns)
                work.append((n * flops, exact))
        return sum(flops for flops, _ in work), all(exact for _, exact in work)

    def cache_bytes(self, visual: int) -> int:
        """Keys and values when the answer ends; its last token is not fed back."""
        return self.language.cache_bytes(self.other + visual + self.answer - 1)

    @property
    def _encoder(self) -> int:
        staged = self.encoding.staged
        return self.encoding.flops if staged is None else staged

    def _costs(self, visual: int, encoder: int, selection: int) -> Costs:
        n, language, more = self.other + visual, self.language, self.answer - 1
        return Costs(
            visual_tokens=visual,
            prompt_tokens=n,
            encoder=encoder,
            selection=selection,
            prefill=language.prefill(n),
            decode=language.decode(n, more),
            cache_bytes=self.cache_bytes(visual),
            read_bytes=language.read_bytes(n, more),
        )
