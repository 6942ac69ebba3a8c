"""How a call is pruned, as one value that `prune`, `enable` and single calls take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from otprune.engines.common.layer_stage import LayerStage
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.encoded import VisualTokens
from otprune.engines.transformers.positions import Positions, check_positions
from otprune.engines.transformers.question import Text, check_text
from otprune.engines.transformers.sources import SEEN
from otprune.engines.transformers.versions import Untested, check_tested
from otprune.errors import OTPruneError, UnsupportedError
from otprune.measures.mass import Distance, Mass, check_alpha, check_distance, check_mass
from otprune.selectors import Selector, check_selector
from otprune.selectors.cues import Cue
from otprune.selectors.gate import check_cues

Logits = Literal["short", "full"]
# From the images of a call to an array of weights, or None, for each; see `Settings.weights`.
Weigh = Callable[[list[VisualTokens]], Iterable[Any]]


@dataclass(frozen=True)
class Settings:
    """How visual tokens are pruned. The values are checked on construction.

    Attributes:
        selector: any selector of `otprune.selectors`.
        positions: "preserved" (kept tokens keep their positions), "compact" (positions are counted
            without gaps) or "auto": compact for models with one position a token if there is
            neither mass nor distance term nor position_ids of the caller's own, preserved
            otherwise, and compact wherever preserved is refused. With one position a token,
            preserved ones are the worst choice in RESTORE (arXiv 2606.01711, Table 4) without mass,
            and the best with mass and distance term.
            `Run.positions` says what was chosen.
        merge: each kept token becomes the mean of the tokens that it stands for.
        mass: how much a kept token counts in the language model's attention, in every layer, for
            the prompt and for each decoding step: "none" (1), "total" (m / k, so that the image as
            a whole keeps its share) or "token" (the number of tokens that it stands for). A mass of
            n equals n literal copies of the token at its position that attend to each other; causal
            copies differ from the second layer on. A sliding window counts the token once, but
            would count copies n times. Needs sdpa, eager, flex or flash attention in every layer.
        alpha: strength of mass and distance: the logarithms are multiplied by it.
        logits: what `model(...)` returns. "short": logits of the shortened prompt; `Run.columns`
            says which column of the caller's prompt each belongs to. "full": logits for every
            column of the caller's prompt. A dropped column then has the logits of the last kept
            column before it, which predicts the next text token. Losses and metrics whose labels
            ignore placeholders (-100) therefore need no change. Padding on the left has logits 0.
            Of a base model the hidden states; refused for models whose logits are not of tokens.
        untested_transformers: what to do if the installed transformers is newer than the tested
            versions: "refuse", or "prune" anyway.
        distance: adds `log(2 - D)` to the attention logits of kept tokens, in every layer, for the
            prompt and for each decoding step: D is the mean cosine of the rotary angles between
            query and key, 1 at distance 0 and about 0 far away. This makes up for rotary embeddings
            that let the few, distant kept tokens count less (RESTORE, arXiv 2606.01711, section
            3.3, which adds it between all tokens). It works with and without mass. Images that lose
            no token get none. Needs sdpa, eager or flex attention, and a language model whose
            every layer is known to use one rotary embedding. True: other models are refused;
            "auto": they go without it, and `Run.distance` says so.
        weights: how much each visual token counts in the full set, for selectors that use weights:
            a function of the list that `visual_tokens` returns for the call. It returns a list with
            one entry for each image and video: `(m,)` non-negative numbers (tensor, array or list;
            only their ratios matter), or None if its tokens all count the same. It is called once
            for every call with images, without gradient. The kept tokens are those of
            `selector.reduce(tokens, weights=...)`. None: all tokens count the same.
        encoder: selection inside the vision encoder, which saves time there; None for none. The
            selector then chooses among the tokens that the encoder kept, where each of these became
            one token of the prompt; elsewhere among all, with the features of kept tokens in the
            places of dropped ones. Masses count all m tokens either way.
        layers: a second stage inside the language model, whose later layers run on fewer visual
            tokens of each prompt; None for none. Not with mass or distance, beam search or several
            sequences of one prompt, assisted generation, static caches, or models with other than
            full attention.
        text: what is asked of the images, for selectors that use it. None: the text behind each
            image in the last turn of its prompt, embedded by the language model; turns end with
            end-of-sequence tokens, and a header of the answer is left out as far as it can be told.
            Tokens with labels are answers and left out, unless all the text has labels; an answer
            in a prompt without labels is taken for text like any other.
            An image with no text behind it has an empty question. Or the token ids of another text,
            for all images: `tokenizer(text, add_special_tokens=False).input_ids`. Or a function of
            the list that `visual_tokens` returns, which returns for each image token ids `(n,)`,
            vectors `(n, d)` in the space of its tokens, or None for the text of the prompt. In a
            later turn on a cache the choice of the first turn is kept.

    Raises:
        UnsupportedError: transformers is newer than tested and that is refused, or the selector
            needs a cue that this engine does not provide.
        WeightError: weights for a selector that does not use them, or none for one that needs them.
        CueError: a text for a selector that does not use it, or one that is no token ids.
        OTPruneError: an argument is wrong; says which, and what was expected.
    """

    selector: Selector
    positions: Positions = "auto"
    merge: bool = False
    mass: Mass = "none"
    alpha: float = 1.0
    logits: Logits = "short"
    untested_transformers: Untested = "refuse"
    weights: Weigh | None = None
    encoder: EncoderStage | None = None
    distance: Distance = False
    layers: LayerStage | None = None
    text: Text | None = None

    def __post_init__(self) -> None:
        # Any object with the method `reduce` of a selector is accepted.
        if inspect.isclass(self.selector) or not callable(getattr(self.selector, "reduce", None)):
            check_selector(self.selector)
        if not (self.weights is None or callable(self.weights)):
            raise OTPruneError(
                f"weights is a {type(self.weights).__name__}: expected a function of the call's "
                "images, such as weights=lambda images: [one array for each of them]"
            )
        given: list[Cue] = [] if self.weights is None else ["weights"]
        given += [cue for cue in getattr(self.selector, "needs", ()) if cue in SEEN]
        object.__setattr__(self, "text", check_text(self.text))
        if self.text is not None or "question" in getattr(self.selector, "uses", ()):
            given.append("question")
        check_cues(self.selector, given, "by the engine for transformers")
        check_positions(self.positions)
        check_mass(self.mass)
        check_alpha(self.alpha)
        if not isinstance(self.merge, bool):
            raise OTPruneError(f"merge={self.merge!r}: expected True or False")
        check_distance(self.distance)
        if self.logits not in get_args(Logits):
            raise OTPruneError(f"logits={self.logits!r}: expected 'short' or 'full'")
        if not (self.encoder is None or isinstance(self.encoder, EncoderStage)):
            raise OTPruneError(
                f"encoder={self.encoder!r}: expected otprune.EncoderStage(keep=0.35), or None"
            )
        check_tested(self.untested_transformers)
        if not (self.layers is None or isinstance(self.layers, LayerStage)):
            raise OTPruneError(f"layers={self.layers!r}: expected otprune.LayerStage(), or None")
        if self.layers is not None and (self.has_mass or self.has_distance):
            raise UnsupportedError(
                "layers= with mass or distance: what a token counts for is not known once others "
                "of its image are gone: use mass='none' and distance=False, or leave layers out"
            )

    @property
    def has_mass(self) -> bool:
        """Whether kept tokens have a mass in attention."""
        return self.mass != "none" and self.alpha != 0

    @property
    def has_distance(self) -> bool:
        """Whether attention to kept tokens has a distance term, in models that take it."""
        return self.distance is not False and self.alpha != 0
